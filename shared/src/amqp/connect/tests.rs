use super::*;
use std::collections::BTreeSet;

const THREE: &str = "amqp://u:p@a:1/v,amqp://b:2/v, amqp://c/v";

fn hosts(nodes: &Nodes) -> Vec<String> {
    nodes.hosts().map(|(host, port, _)| format!("{host}:{port}")).collect()
}

#[test]
fn every_node_has_its_turn_chance_says_which_is_first_and_whoever_fails_goes_to_the_end() {
    let firsts: BTreeSet<String> = (0..200).map(|_| hosts(&Nodes::read(THREE).unwrap()).remove(0)).collect();
    assert_eq!(Vec::from_iter(firsts), ["a:1", "b:2", "c:5672"]);
    let nodes = Nodes::read(THREE).unwrap();
    nodes.begin_with(0);
    assert_eq!(hosts(&nodes), ["a:1", "b:2", "c:5672"]);
    nodes.clone().go_on();
    assert_eq!(hosts(&nodes), ["b:2", "c:5672", "a:1"], "a clone goes on for all");
    nodes.begin_with(2);
    nodes.go_on();
    assert_eq!(hosts(&nodes), ["a:1", "b:2", "c:5672"]);
}

#[test]
fn the_user_is_whom_the_broker_takes_us_for() {
    let nodes = Nodes::read("amqp://u:p@a").unwrap();
    let refused = |user: &str| {
        Error::Lost(format!("PRECONDITION_FAILED - user_id property set to 'u' but authenticated user was '{user}'"))
    };
    assert!(!nodes.learns_user(&Error::Lost("connection reset".to_owned())));
    assert_eq!(nodes.user(), "u");
    assert!(nodes.clone().learns_user(&refused("service-account 7")));
    assert_eq!(nodes.user(), "service-account 7");
    assert!(!nodes.learns_user(&refused("another")), "once, or it would be tried without end");
}

#[test]
fn a_url_that_ends_in_a_slash_or_before_it_means_the_virtual_host_that_is_one() {
    for (url, vhost) in [
        ("amqp://h:5672/", "/"),
        ("amqp://h", "/"),
        ("amqp://h/%2f", "/"),
        ("amqp://h/v", "v"),
        ("amqp://u:p@h/v[1]", "v[1]"),
        ("amqp://u:p[1]@h/v", "v"),
    ] {
        let nodes = Nodes::read(url).unwrap();
        assert_eq!(nodes.list[0].uri.vhost, vhost, "{url}");
        assert_eq!(hosts(&nodes), ["h:5672"], "{url}");
    }
}

#[test]
fn an_address_of_ipv6_is_a_host() {
    for url in ["amqp://u:p@[2001:db8::7]:1/v", "amqp://[2001:db8::7]:1", "amqp://u:[p@[2001:db8::7]:1/v[2]"] {
        assert_eq!(hosts(&Nodes::read(url).unwrap()), ["2001:db8::7:1"], "{url}");
    }
}

#[test]
fn a_list_with_one_url_that_is_none_is_refused() {
    for wrong in [
        "",
        ",",
        "amqp://a,",
        "amqp://a,http://b",
        "amqps://a?cacertfile=/nothing",
        "amqp://a,,amqp://b",
        "amqps://a?certfile=/c",
    ] {
        assert!(matches!(Nodes::read(wrong), Err(Error::Url(_) | Error::Tls(_))), "{wrong}");
    }
}
