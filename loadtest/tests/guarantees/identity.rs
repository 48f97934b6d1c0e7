//! Senders are not friends: what one has is neither shown to another nor disturbed by them.

use crate::support::queue::{consume, table, text};
use crate::support::shop::{Reply, Shop, cancellation, payment, request};
use futures_util::StreamExt;
use shared::messages::{PAYMENT_QUEUE, RELEASE_QUEUE};

const DIRECT: &str = "amq.rabbitmq.reply-to";

#[tokio::test]
async fn a_sender_neither_gets_nor_disturbs_what_another_has_and_who_is_trusted_acts_for_all() {
    let shop = Shop::open(&[("ticket", 100)]).await;
    let [mut ann, mut eve, mut web] = [shop.of_user("ann").await, shop.of_user("eve").await, shop.of_user("web").await];
    // Longer than a payment's batch waits for it, so the message goes round its queue.
    let trusted_users = web.user.clone().unwrap();
    let (trusted, slow) = (("TRUSTED_USERS", trusted_users.as_str()), ("GATEWAY_LATENCY_MS", "1200"));
    let operator = shop.of_user("operator").await;
    let [replayer, settler] = [&operator, &ann].map(|of| of.user.clone().unwrap());
    let (replay, settle) = (("REPLAY_USERS", replayer.as_str()), ("SETTLE_USERS", settler.as_str()));
    let _purchase = shop.worker("w", &[trusted]).await;
    let _release = shop.worker_of("release", "r", &[trusted, replay]).await;
    let _payment = shop.worker_of("payment", "p", &[trusted, replay, settle, slow, ("GATEWAY", "simulated")]).await;

    let anns = bought_with_guessed_ids(&mut ann, &mut eve).await;

    // A message that has no sender: of no use, either.
    let mut replies = consume(&eve.channel, DIRECT).await;
    let order = anns[0].order();
    for (exchange, key, body, code) in [
        ("purchase", "ticket", request("r-1", "ticket", 1), "request_id_reused"),
        ("", RELEASE_QUEUE, cancellation("c-0", order), "unknown_order"),
        ("", PAYMENT_QUEUE, payment("p-0", order), "unknown_order"),
    ] {
        let properties = shop.properties("nobody").with_reply_to(DIRECT.into());
        eve.send_to(exchange, key, body.as_bytes(), properties).await;
        let reply = Reply::of(replies.next().await.unwrap().unwrap());
        assert_eq!(reply.code(), code, "{}", reply.body);
        assert!(!reply.body.contains("\"order\""), "{}", reply.body);
    }
    assert_eq!(eve.cancel("c-1", order).await.code(), "unknown_order");
    assert_eq!(eve.pay("p-1", order).await.code(), "unknown_order");

    // In whose name it is, says only who may send again.
    let in_anns_name = table(&[("x-sent-by", text(ann.user.as_deref().unwrap()))]);
    let end = format!(r#"{{"request_id":"e-1","order_id":"{order}","op":"void"}}"#);
    let not_anns = (RELEASE_QUEUE, cancellation("c-2", order), "not_allowed");
    let anns_own = (RELEASE_QUEUE, cancellation("c-2", anns[2].order()), "cancelled");
    // How a payment ends, nobody says in another's name.
    let of_money = (PAYMENT_QUEUE, end, "not_allowed");
    for publisher in [&mut eve, &mut web] {
        let (queue, body, code) = &not_anns;
        let properties = publisher.properties(queue).with_headers(in_anns_name.clone());
        publisher.send_to("", queue, body.as_bytes(), properties).await;
        let reply = publisher.reply_to(queue).await;
        assert_eq!(reply.code(), *code, "by {:?}: {}", publisher.user, reply.body);
    }
    // The reply goes where the sender's own would.
    for (queue, body, code) in [anns_own, of_money] {
        let properties = operator.properties(queue).with_headers(in_anns_name.clone());
        let properties = properties.with_reply_to(ann.reply_queue.clone());
        operator.send_to("", queue, body.as_bytes(), properties).await;
        let reply = ann.reply_to(queue).await;
        assert_eq!(reply.code(), code, "{}", reply.body);
    }

    let paid = ann.pay("p-1", order).await;
    assert_eq!((paid.code(), paid.verdict["item"].as_str()), ("paid", Some("ticket")));
    assert_eq!(eve.pay("p-1", order).await.code(), "unknown_order", "a repeat");
    assert_eq!(web.cancel("c-1", anns[1].order()).await.code(), "cancelled");
    let senders = "SELECT count(DISTINCT orders.sender) FROM orders JOIN verdicts USING (request_id, sender)";
    assert_eq!(shop.count(senders).await, 2);
}

/// Who guesses ids, before and after, gets orders of their own, and so does who had them: theirs.
async fn bought_with_guessed_ids(ann: &mut Shop, eve: &mut Shop) -> [Reply; 3] {
    // With another content and with the same; and afterwards.
    let other = request("r-1", "ticket", 2);
    eve.send("ticket", other.as_bytes(), eve.properties("r-1")).await;
    let eves = [eve.reply_to("r-1").await, eve.purchase("r-2").await];
    let anns = [ann.purchase("r-1").await, ann.purchase("r-2").await, ann.purchase("r-3").await];
    let after = eve.purchase("r-3").await;
    for (reply, other) in anns.iter().zip(eves.iter().chain([&after])) {
        assert_eq!((reply.code(), other.code()), ("reserved", "reserved"));
        assert_ne!(reply.order(), other.order());
    }
    assert_eq!(ann.purchase("r-1").await.body, anns[0].body, "a repeat of their own");
    anns
}

#[tokio::test]
async fn nobody_has_a_reply_sent_to_anothers_queue() {
    let shop = Shop::open(&[("ticket", 100)]).await;
    let [mut ann, eve] = [shop.of_user("ann").await, shop.of_user("eve").await];
    let _worker = shop.worker("w", &[("TRUSTED_USERS", "")]).await;
    // A genuine `invalid_quantity` for a request that ann is about to make; a verdict in a queue that the broker has named.
    for (properties, body) in [
        (eve.properties("r-1").with_reply_to(ann.reply_queue.clone()), request("r-1", "ticket", 0)),
        (shop.properties("r-1").with_reply_to(ann.reply_queue.clone()), request("r-1", "ticket", 0)),
        (eve.properties("r-2").with_reply_to(shop.reply_queue.clone()), request("r-2", "ticket", 1)),
    ] {
        eve.send("ticket", body.as_bytes(), properties).await;
    }
    let kept = shop.dead(3).await;
    assert!(kept.iter().all(|(reason, _)| reason == "invalid_reply_to"), "{kept:?}");
    assert_eq!(ann.purchase("r-1").await.code(), "reserved", "the only reply");
    assert_eq!(shop.depth(shop.reply_queue.as_str()).await, 0);
    // Bound to its connection by the broker.
    let mut replies = consume(&eve.channel, DIRECT).await;
    eve.send("ticket", request("r-3", "ticket", 0).as_bytes(), eve.properties("r-3").with_reply_to(DIRECT.into()))
        .await;
    let reply = Reply::of(replies.next().await.unwrap().unwrap());
    assert_eq!((reply.code(), reply.verdict["item"].as_str()), ("invalid_quantity", Some("ticket")), "it says of what");
    assert_eq!(shop.stock("ticket").await, (99, 1));
}
