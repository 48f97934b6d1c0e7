//! What the command line takes, and what it refuses.

use clap::CommandFactory;

use super::*;

pub(super) fn parse(command: &str, arguments: &[&str]) -> Result<Command, clap::Error> {
    Ok(Cli::try_parse_from(["loadtest", command].iter().chain(arguments))?.check()?.command)
}

/// On private servers, whatever the environment says.
pub(super) fn run(arguments: &[&str]) -> Result<RunOptions, clap::Error> {
    let Command::Run(options) = parse("run", &[&["--amqp-url="], arguments].concat())? else {
        unreachable!("the subcommand is run")
    };
    Ok(options)
}

/// Says why it is wrong usage.
fn refusal(arguments: &[&str]) -> String {
    let error = parse("run", arguments).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_defaults_are_a_thousand_buyers_for_one_ticket() {
    let scenario = run(&[]).unwrap().sale.scenario();
    let expected = Scenario { buyers: 1_000, items: 1, stock: 1, quantities: 1..=1, rate: 0.0, seed: 42 };
    assert_eq!(scenario, expected);
}

#[test]
fn a_quantity_is_a_number_or_a_range() {
    assert_eq!(run(&["--quantity", "3"]).unwrap().sale.quantity, 3..=3);
    assert_eq!(run(&["--quantity", "1-4"]).unwrap().sale.quantity, 1..=4);
    for wrong in ["0", "4-1", "1001", "1-1001", "x", "1-", "-1", ""] {
        assert!(run(&[&format!("--quantity={wrong}")]).is_err(), "{wrong}");
    }
}

#[test]
fn events_are_repeatable_and_a_point_that_is_none_is_wrong_usage() {
    let events = run(&["--kill-worker-at", "25%", "--kill-worker-at=50%", "--add-worker-at=25%"]).unwrap().events;
    assert_eq!((events.kill_worker_at.len(), events.add_worker_at.len(), events.stop_worker_at.len()), (2, 1, 0));
    assert_eq!(events.freeze(), Duration::from_secs(2));
    for wrong in ["25", "abc", "", "%", "101%", "256%", "-1%", "+5%", "2.5%", " 5%", "5 %", "5%%"] {
        let reason = refusal(&[&format!("--freeze-worker-at={wrong}")]);
        assert!(reason.contains("0% to 100%, such as 25%"), "{reason}");
    }
}

#[test]
fn a_node_can_be_killed_of_three_private_ones_alone() {
    assert!(run(&["--broker-nodes", "3", "--kill-broker-at", "50%"]).is_ok());
    assert!(refusal(&["--amqp-url=", "--kill-broker-at", "50%"]).contains("--broker-nodes 3"));
    assert!(refusal(&["--broker-nodes=3", "--amqp-url=amqp://a"]).contains("AMQP_URL"));
}

#[test]
fn redis_can_be_killed_only_where_it_counts_and_is_ours() {
    assert!(run(&["--kill-redis-at=40%", "--strategy=redis"]).is_ok());
    for wrong in [&["--amqp-url="][..], &["--strategy=redis", "--amqp-url=amqp://a"]] {
        let reason = refusal(&[&["--kill-redis-at=40%"], wrong].concat());
        assert!(reason.contains("--strategy redis on private servers"), "{reason}");
    }
}

#[test]
fn what_no_sale_can_be_is_refused() {
    for wrong in [
        "--broker-nodes=2",
        "--buyers=0",
        "--items=0",
        "--rate=-1",
        "--rate=NaN",
        "--rate=inf",
        "--batch-max=0",
        "--timeout=0",
    ] {
        assert!(run(&[wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn events_are_in_order_of_points_and_at_one_point_a_worker_comes_before_another_goes() {
    let asked = [
        "--add-worker-at=50%",
        "--add-worker-at=10%",
        "--stop-worker-at=50%",
        "--kill-worker-at=30%",
        "--kill-worker-at=30%",
        "--freeze-worker-at=0%",
        "--kill-broker-at=30%",
        "--kill-redis-at=50%",
        "--broker-nodes=3",
        "--strategy=redis",
    ];
    let mut events = run(&asked).unwrap().events.events();
    events.sort_by_key(|event| (event.at.percent(), event.action));
    let expected = [
        ("0%", Action::Freeze),
        ("10%", Action::Add),
        ("30%", Action::Kill),
        ("30%", Action::Kill),
        ("30%", Action::KillBroker),
        ("50%", Action::Add),
        ("50%", Action::Stop),
        ("50%", Action::KillRedis),
    ];
    assert_eq!(events, expected.map(|(at, action)| Event { at: at.parse().unwrap(), action }));
    assert!(run(&[]).unwrap().events.events().is_empty());
}
