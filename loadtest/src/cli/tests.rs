//! What the command line takes, and what it refuses.

use super::*;
use crate::faults::{Action, Event};
use clap::{CommandFactory, ValueEnum};

pub(super) fn parse(command: &str, arguments: &[&str]) -> Result<Command, clap::Error> {
    Ok(Cli::try_parse_from(["loadtest", command].iter().chain(arguments))?.check()?.command)
}

/// On private servers, whatever the environment says.
pub(super) fn run(arguments: &[&str]) -> Result<RunOptions, clap::Error> {
    let Command::Run(options) = parse("run", &[&["--amqp-url="], arguments].concat())? else {
        unreachable!("the subcommand is run")
    };
    Ok(*options)
}

#[test]
fn the_command_line_is_sound_and_the_defaults_are_a_thousand_buyers_for_one_ticket() {
    Cli::command().debug_assert();
    let options = run(&[]).unwrap();
    assert_eq!(options.sale.scenario, Scenario::default());
    assert!(options.events.events().is_empty());
    assert_eq!(options.events.freeze(), Duration::from_secs(2));
}

#[test]
fn a_quantity_is_a_number_or_a_range() {
    assert_eq!(run(&["--quantity", "3"]).unwrap().sale.scenario.quantities, 3..=3);
    assert_eq!(run(&["--quantity", "1-4"]).unwrap().sale.scenario.quantities, 1..=4);
    for wrong in ["0", "4-1", "1001", "1-1001", "x", "1-", "-1", ""] {
        assert!(run(&[&format!("--quantity={wrong}")]).is_err(), "{wrong}");
    }
}

#[test]
fn what_no_sale_can_be_is_refused_with_the_reason() {
    let point = "0% to 100%, such as 25%";
    let node = "--broker-nodes 3";
    let redis = "--strategy redis on private servers";
    for (wrong, reason) in [
        (&["--broker-nodes=2"][..], "1 node or 3"),
        (&["--buyers=0"], "0 is not in"),
        (&["--items=0"], "0 is not in"),
        (&["--batch-max=0"], "0 is not in"),
        (&["--timeout=0"], "0 is not in"),
        (&["--rate=-1"], "a rate is"),
        (&["--rate=NaN"], "a rate is"),
        (&["--rate=inf"], "a rate is"),
        (&["--freeze-worker-at=25"], point),
        (&["--kill-worker-at=101%"], point),
        (&["--add-worker-at=2.5%"], point),
        (&["--amqp-url=", "--kill-broker-at=50%"], node),
        (&["--broker-nodes=3", "--amqp-url=amqp://a"], "AMQP_URL"),
        (&["--kill-redis-at=40%", "--amqp-url="], redis),
        (&["--over=http", "--url=http://127.0.0.1:1", "--amqp-url="], "AMQP_URL"),
        (&["--faults=5", "--amqp-url="], "--rate"),
        (&["--faults=5", "--rate=9", "--fault-kinds=kill,cut", "--amqp-url=amqp://a"], "private servers"),
        (&["--faults=5", "--rate=9", "--broker-nodes=3", "--amqp-url="], "one node"),
        (&["--faults=5", "--rate=9", "--fault-kinds=flood", "--amqp-url="], "in-doubt"),
        (&["--fault-kinds=kill", "--amqp-url="], "--faults"),
        (&["--kill-redis-at=40%", "--strategy=redis", "--amqp-url=amqp://a"], redis),
    ] {
        let error = parse("run", wrong).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(reason), "{wrong:?}: {error}");
    }
    assert!(run(&["--broker-nodes=3", "--kill-broker-at=50%"]).is_ok());
    assert!(run(&["--kill-redis-at=40%", "--strategy=redis"]).is_ok());
    assert!(parse("run", &["--faults=5", "--rate=9", "--fault-kinds=kill,freeze", "--amqp-url=amqp://a"]).is_ok());
    let all = run(&["--faults=5", "--rate=9"]).unwrap().draws()[1].clone();
    assert_eq!(all.kinds().count(), FaultKind::value_variants().len());
}

#[test]
fn only_private_servers_are_kept() {
    assert!(parse("up", &["--keep=here", "--amqp-url=", "--database-url="]).is_ok());
    for given in ["--amqp-url=amqp://a", "--database-url=postgres://a/b"] {
        let error = parse("up", &["--keep=here", given]).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("private servers"), "{error}");
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
}
