use super::*;
use crate::messages::Code;

#[test]
fn what_is_sent_again_has_all_of_its_own_and_nothing_of_the_way() {
    let mut headers = FieldTable::default();
    for name in ["x-dead-reason", "x-death", "x-first-death-queue", "x-last-death-queue", "x-delivery-count", "BCC"] {
        headers.insert(name.into(), AMQPValue::Boolean(true));
    }
    headers.insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
    let of_its_own = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_correlation_id("c".into())
        .with_message_id("m".into())
        .with_reply_to("amq.rabbitmq.reply-to.g1hkAB".into())
        .with_timestamp(7)
        .with_type("t".into());
    let dead = of_its_own.clone().with_headers(headers).with_expiration("1".into());
    let mut kept = FieldTable::default();
    kept.insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
    let expected = of_its_own.with_headers(kept).with_delivery_mode(PERSISTENT);
    assert_eq!(of_replay(&dead, "us", &[]), Some((expected, true)));
}

fn sender_of(properties: &BasicProperties) -> (Option<String>, Option<String>) {
    let user = properties.user_id().as_ref().map(|user| user.to_string());
    (user, sent_by(properties).map(|sender| sender.to_string()))
}

fn named(user: &str, sender: Option<&str>) -> (Option<String>, Option<String>) {
    (Some(user.to_owned()), sender.map(ToOwned::to_owned))
}

fn claiming(sender: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(SENDER_HEADER.into(), AMQPValue::LongString(sender.into()));
    BasicProperties::default().with_headers(headers)
}

#[test]
fn a_copy_keeps_the_sender_of_the_original_through_dead_and_back() {
    let (rejection, workers) = (Rejection::new(Code::Malformed, ""), ["worker".to_owned()]);
    let replayers = [workers[0].clone(), "operator".to_owned()];
    let eves = BasicProperties::default().with_user_id("eve".into());
    let copy = of_dead_letter(&eves, true, ("restock", ""), &rejection, "worker");
    assert_eq!(sender_of(&copy), named("worker", Some("eve")));
    let (replayed, _) = of_replay(&copy, "operator", &workers).unwrap();
    assert_eq!(sender_of(&replayed), named("operator", Some("eve")));
    let (sent, is_passed_on) = as_sent(replayed.clone(), &replayers);
    assert_eq!((sender_of(&sent), is_passed_on), (named("eve", None), true));
    let again = of_requeue(&sent, "worker");
    assert_eq!(sender_of(&again), named("worker", Some("eve")));
    // The operator's right is missing: they can send it again when they have it.
    assert_eq!(as_sent(replayed.clone(), &workers), (replayed.clone(), false));
    let refused = of_dead_letter(&replayed, true, ("restock", ""), &rejection, "worker");
    assert_eq!(of_replay(&refused, "operator", &workers).unwrap().0, replayed);
    // Who is one and the same needs nobody's word.
    let ours = of_dead_letter(&eves, true, ("restock", ""), &rejection, "eve");
    assert_eq!(
        (sender_of(&ours), sender_of(&of_replay(&ours, "eve", &[]).unwrap().0)),
        (named("eve", None), named("eve", None))
    );
    let nobodys = of_dead_letter(&BasicProperties::default(), true, ("restock", ""), &rejection, "worker");
    assert_eq!(sender_of(&nobodys), (None, None));
}

#[test]
fn a_sender_who_is_made_up_is_sent_nothing_again_for() {
    let (rejection, workers) = (Rejection::new(Code::NotAllowed, ""), ["worker".to_owned()]);
    for (user, sender) in [(None, "ann"), (Some("eve"), "ann"), (Some("eve"), "operator"), (Some("eve"), "worker")] {
        let mut forged = claiming(sender);
        if let Some(user) = user {
            forged = forged.with_user_id(user.into());
        }
        // Straight into `dead`, or by way of a function.
        assert_eq!(of_replay(&forged, "operator", &workers), None, "{user:?}");
        assert!(!as_sent(forged.clone(), &workers).1, "{user:?}");
        let kept = of_dead_letter(&forged, true, ("release", ""), &rejection, "worker");
        assert_eq!(header(&kept, CLAIMED_BY_HEADER), Some(&AMQPValue::LongString(user.unwrap_or_default().into())));
        assert_eq!(sender_of(&kept), named("worker", Some(sender)), "both names");
        assert_eq!(of_replay(&kept, "operator", &workers), None, "{user:?}");
    }
}

#[test]
fn a_senders_fault_keeps_headers_of_1_kib_of_text_and_what_is_nobodys_of_2() {
    for (code, bytes, is_kept) in [
        (Code::Malformed, 1_000, true),
        (Code::Malformed, 1_100, false),
        (Code::DeliveryLimit, 2_000, true),
        (Code::DeliveryLimit, 2_100, false),
    ] {
        let mut headers = FieldTable::default();
        headers.insert("pad".into(), AMQPValue::LongString("x".repeat(bytes).into()));
        let original = BasicProperties::default().with_headers(headers);
        let copy = of_dead_letter(&original, true, ("purchase.0", "ticket"), &Rejection::new(code, "why"), "us");
        assert_eq!(header(&copy, "pad").is_some(), is_kept, "{code:?}, {bytes}");
        assert_eq!(header(&copy, "x-dead-headers").is_some(), !is_kept);
    }
}

#[test]
fn of_headers_that_would_take_much_memory_those_of_the_trace_are_held() {
    let of = |name: &str, value: AMQPValue| {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), value).insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
        BasicProperties::default().with_headers(headers).with_reply_to("r".into())
    };
    let text = |bytes| AMQPValue::LongString("x".repeat(bytes).into());
    for large in [text(HELD_HEADERS_BYTES_MAX), AMQPValue::FieldArray(vec![AMQPValue::Void; 200].into())] {
        let held = of_held(of("x", large));
        assert!(header(&held, "x").is_none() && header(&held, "traceparent").is_some());
        assert!(header(&held, "x-dead-headers").is_some() && held.reply_to().is_some());
    }
    let small = of("x", text(3_000));
    assert_eq!(of_held(small.clone()), small);
}

#[test]
fn an_address_that_only_its_own_channel_could_use_is_taken_off() {
    let bare = BasicProperties::default().with_reply_to(DIRECT_REPLY_TO.into());
    let (properties, keeps_reply_to) = of_replay(&bare, "us", &[]).unwrap();
    assert_eq!((properties.reply_to(), keeps_reply_to), (&None, false));
    assert!(!of_replay(&BasicProperties::default(), "us", &[]).unwrap().1, "there was none");
}
