use super::*;

#[test]
fn the_node_that_most_requests_wait_for_is_the_one_and_where_nothing_waits_the_one_that_leads_most() {
    let leaders = [("p.0", "one"), ("p.1", "one"), ("p.2", "two"), ("dead", "three")];
    let leaders = leaders.map(|(queue, node)| (queue.to_owned(), node.to_owned())).into();
    let of = |depths: [u32; 3]| busiest(&leaders, ["p.0", "p.1", "p.2"].into_iter().zip(depths));
    for (depths, node) in [([10, 10, 21], "two"), ([11, 11, 21], "one"), ([0, 0, 0], "one")] {
        assert_eq!(of(depths).as_deref(), Some(node));
    }
    assert_eq!(busiest(&HashMap::new(), [("p.0", 1)].into_iter()), None);
}
