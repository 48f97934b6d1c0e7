use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Request(Line, String);

impl Collected for Request {
    fn line(&self) -> &Line {
        &self.0
    }

    fn body(&self) -> &str {
        &self.1
    }

    fn is_given_up(&self) -> bool {
        self.1 == "given up"
    }
}

fn to(exchange: &'static str, key: &str) -> Line {
    Line { exchange, routing_key: key.to_owned() }
}

fn purchase(item: &str, body: &str) -> Request {
    Request(to(PURCHASE_EXCHANGE, item), body.to_owned())
}

fn bodies(message: Option<Vec<Request>>) -> Option<String> {
    message.map(|requests| body(&requests))
}

#[test]
fn a_lone_request_goes_at_once_and_what_comes_meanwhile_goes_together_in_order_item_by_item() {
    let mut collector = Collector::default();
    let (a, b) = (to(PURCHASE_EXCHANGE, "a"), to(PURCHASE_EXCHANGE, "b"));
    assert_eq!(bodies(collector.add(purchase("a", "1"))).as_deref(), Some("1"));
    assert_eq!(collector.add(purchase("a", "2")), None);
    assert_eq!(bodies(collector.add(purchase("b", "9"))).as_deref(), Some("9"), "another item does not wait");
    for body in ["given up", "3", "4"] {
        assert_eq!(collector.add(purchase("a", body)), None);
    }
    assert_eq!(bodies(collector.confirmed(&a)).as_deref(), Some("[2,3,4]"));
    assert_eq!(collector.add(purchase("a", "5")), None);
    assert_eq!(bodies(collector.confirmed(&a)).as_deref(), Some("5"), "one alone is no array");
    assert_eq!((collector.confirmed(&a), collector.confirmed(&b), collector.confirmed(&b)), (None, None, None));
    assert!(collector.lines.is_empty(), "nothing is left of a line in which nobody waits");
    assert_eq!(bodies(collector.add(purchase("a", "6"))).as_deref(), Some("6"));
}

#[test]
fn a_message_has_no_more_than_the_queue_takes() {
    let mut collector = Collector::default();
    let mut sizes = |bodies: Vec<String>| {
        let (line, mut sizes) = (to(PURCHASE_EXCHANGE, "a"), Vec::new());
        let first: Vec<_> = bodies.into_iter().filter_map(|body| collector.add(purchase("a", &body))).collect();
        let mut next = first.into_iter().next();
        while let Some(message) = next {
            assert!(body(&message).len() <= ARRAY_BYTES_MAX);
            sizes.push(message.len());
            next = collector.confirmed(&line);
        }
        sizes
    };
    assert_eq!(sizes(vec!["{}".to_owned(); 2_002]), [1, 1_000, 1_000, 1]);
    // Four of them with three commas and two brackets are just as long as a message may be.
    let quarter = "x".repeat((ARRAY_BYTES_MAX - 5) / 4);
    let longer = format!("{quarter}xxxx");
    let filled = |last: &str| vec![quarter.clone(), quarter.clone(), quarter.clone(), quarter.clone(), last.to_owned()];
    assert_eq!(sizes(filled(&longer[..quarter.len() + 3])), [1, 4]);
    assert_eq!(sizes(filled(&longer)), [1, 3, 1]);
    let mut others = Collector::default();
    let release = |body: &str| Request(to("release", "o"), body.to_owned());
    assert!(others.add(release("1")).is_some() && others.add(release("2")).is_none());
    assert!(others.add(release("3")).is_none());
    assert_eq!(bodies(others.confirmed(&to("release", "o"))).as_deref(), Some("2"), "only purchases share a message");
}

#[test]
fn on_another_connection_a_line_goes_on_when_all_that_was_published_again_is_confirmed() {
    let mut collector = Collector::default();
    let a = to(PURCHASE_EXCHANGE, "a");
    for body in ["1", "2"] {
        collector.add(purchase("a", body));
    }
    assert!(collector.confirmed(&a).is_some());
    collector.add(purchase("a", "3"));
    collector.add(purchase("b", "9"));
    collector.add(purchase("b", "10"));
    // "1" and "2" are not answered yet; "9" has been, before its confirm came.
    let next = collector.begin_again([&a, &a].into_iter());
    assert_eq!(next, [vec![purchase("b", "10")]]);
    assert_eq!(collector.confirmed(&a), None);
    assert_eq!(bodies(collector.confirmed(&a)).as_deref(), Some("3"));
    collector.add(purchase("a", "given up"));
    collector.forget_given_up();
    assert_eq!(collector.confirmed(&a), None);
}
