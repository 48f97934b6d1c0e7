//! Shop and board in a real browser. Where none can be had, that is said, and nothing is shown.

use super::client::{Door, ask};
use crate::admin::dead::dead_letter;
use crate::support::browser::Browser;
use crate::support::free_address;
use crate::support::shop::Shop;
use crate::support::tab::Tab;
use serde_json::json;
use shared::devstack::{Supervised, urls_of};

/// A door whose board listens at this address, too.
pub(super) async fn with_board(shop: &Shop, environment: &[(&str, &str)]) -> (Door, String) {
    let (address, [amqp_url, _]) = (free_address().await, urls_of("admin", &shop.amqp_url, &shop.database_url));
    let board = [("BOARD", "true"), ("BOARD_ADDRESS", address.as_str()), ("BOARD_AMQP_URL", amqp_url.as_str())];
    (Door::open(shop, "door", &[&board[..], environment].concat()).await, address)
}

/// The text of a part of the row or card that is selected.
pub(super) fn part(selector: &str, name: &str) -> String {
    format!("document.querySelector('{selector} [data-part={name}]').textContent")
}

/// Buys by the page, and waits until the purchase, the first that is shown, is in this state.
async fn buy(tab: &mut Tab, quantity: u32, state: &str) {
    tab.evaluate(&format!("document.querySelector('#items input').value = {quantity}")).await;
    tab.click("#items form button").await;
    tab.until(&format!("{} === '{state}'", part("#purchases", "state"))).await;
}

async fn click_and_see(tab: &mut Tab, button: &str, state: &str) {
    tab.click(&format!("#purchases [data-part={button}]")).await;
    tab.until(&format!("{} === '{state}'", part("#purchases", "state"))).await;
}

pub(super) async fn until_left(tab: &mut Tab, left: u32) {
    tab.until(&format!("{} === '{left}'", part("#items", "available"))).await;
}

#[tokio::test]
async fn a_buyer_is_told_all_that_becomes_of_a_purchase_and_all_see_the_stock() {
    let Some(browser) = Browser::find("the shop").await else { return };
    let shop = Shop::open(&[("concert", 5)]).await;
    let _workers = shop.workers(&["purchase", "release", "payment"]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let mut ann = Tab::open(&browser, "ann", &door.address, "/").await;
    let mut bob = Tab::open(&browser, "bob", &door.address, "/").await;
    until_left(&mut ann, 5).await;
    buy(&mut ann, 2, "Held for you").await;
    ann.until(&format!("/^(9:5.|10:00)$/.test({})", part("#purchases", "rest"))).await;
    until_left(&mut ann, 3).await;
    until_left(&mut bob, 3).await;
    buy(&mut bob, 4, "Sold out").await;
    click_and_see(&mut ann, "pay", "Paid").await;
    buy(&mut ann, 1, "Held for you").await;
    click_and_see(&mut ann, "letGo", "Let go").await;

    shop.execute("UPDATE items SET hold_ms = 10000").await;
    buy(&mut ann, 3, "Held for you").await;
    until_left(&mut bob, 0).await;
    ann.until(&format!("/^0:(0.|10)$/.test({})", part("#purchases", "rest"))).await;
    ann.until(&format!("{} === 'Expired'", part("#purchases", "state"))).await;
    until_left(&mut bob, 3).await;
    // What the engine said, message by message; and the page knows its purchases when it is opened again.
    let kinds =
        "[...document.querySelectorAll('#purchases li:first-child .log > li')].map((entry) => entry.dataset.kind)";
    assert_eq!(ann.evaluate(kinds).await, json!(["request", "verdict", "expired"]));
    ann.ask("Page.reload", json!({})).await;
    ann.until("document.querySelectorAll('#purchases > li').length === 3").await;
    ann.until(&format!("{} === 'Expired'", part("#purchases", "state"))).await;
    ann.close().await;
    bob.close().await;
    browser.close().await;
}

#[tokio::test]
async fn a_buyer_sees_their_place_in_line_while_the_database_is_stopped() {
    let Some(browser) = Browser::find("the shop").await else { return };
    let (mut servers, shop) = Shop::private(&[("concert", 5)]).await;
    let _worker = shop.worker("w", &[]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let mut tab = Tab::open(&browser, "tab", &door.address, "/").await;
    until_left(&mut tab, 5).await;
    let mut second = Tab::open(&browser, "second", &door.address, "/").await;
    until_left(&mut second, 5).await;
    servers.postgres.kill().await.unwrap();
    for (tab, place) in [(&mut tab, "Waiting"), (&mut second, "At least 1 ahead of you")] {
        buy(tab, 1, "In line").await;
        tab.until(&format!("{} === '{place}'", part("#purchases", "ahead"))).await;
        // Nobody tells a door who else is in a line that stands.
        tab.until(&format!("{} === 'how many more is not known yet'", part("#purchases", "wait"))).await;
        tab.until("document.querySelector('#purchases [data-kind=position]')").await;
    }
    servers.postgres.start_again().await.unwrap();
    for mut tab in [tab, second] {
        tab.until(&format!("{} === 'Held for you'", part("#purchases", "state"))).await;
        tab.close().await;
    }
    browser.close().await;
    servers.stop().await.unwrap();
}

/// A shop where a buyer has said that they pay, and nobody asks the gateway yet.
async fn paying(browser: &Browser) -> (Shop, Tab, (Supervised, Door)) {
    let shop = Shop::open(&[("concert", 5)]).await;
    let worker = shop.worker("w", &[]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let mut tab = Tab::open(browser, "tab", &door.address, "/").await;
    until_left(&mut tab, 5).await;
    buy(&mut tab, 1, "Held for you").await;
    click_and_see(&mut tab, "pay", "Paying").await;
    (shop, tab, (worker, door))
}

/// A decline leaves the order as it was, which no event tells who looks once a second.
#[tokio::test]
async fn a_buyer_whose_payment_takes_long_is_told_how_it_ended() {
    let Some(browser) = Browser::find("the shop").await else { return };
    let (shop, mut tab, _programs) = paying(&browser).await;
    tab.until("document.querySelector('#purchases [data-kind=accepted]')").await;
    let _payment = shop.worker_of("payment", "p", &[("GATEWAY", "simulated"), ("GATEWAY_DECLINE_SHARE", "1")]).await;
    tab.until(&format!("{} === 'Held for you'", part("#purchases", "state"))).await;
    assert_eq!(tab.evaluate("document.querySelector('#purchases .log > li:last-child').dataset.kind").await, "verdict");
    tab.close().await;
    browser.close().await;
}

/// As if another tab were looked at, or this one again.
async fn hide(tab: &mut Tab, is_hidden: bool) {
    let hidden = format!("Object.defineProperty(document, 'hidden', {{ value: {is_hidden}, configurable: true }})");
    tab.evaluate(&format!("{hidden}; document.dispatchEvent(new Event('visibilitychange'))")).await;
}

#[tokio::test]
async fn a_buyer_who_looks_again_sees_what_became_of_a_payment_meanwhile() {
    let Some(browser) = Browser::find("the shop").await else { return };
    let (shop, mut tab, _programs) = paying(&browser).await;
    let badge = "document.querySelector('#purchases [data-part=state]')";
    tab.evaluate(&format!(
        "seen = []; new MutationObserver(() => seen.push({badge}.textContent)).observe({badge}, {{ childList: true }})"
    ))
    .await;
    hide(&mut tab, true).await;
    hide(&mut tab, false).await;
    shop.execute("UPDATE orders SET state = 'paying'").await;
    tab.until("document.querySelector('#purchases [data-kind=paying]')").await;
    assert_eq!(tab.evaluate("seen").await, json!([]), "it is being paid for, whatever a new stream begins with");

    // Now by what the shop says alone.
    tab.go("/").await;
    tab.until(&format!("{} === 'Paying'", part("#purchases", "state"))).await;
    hide(&mut tab, true).await;
    shop.execute("UPDATE orders SET state = 'reserved'").await;
    hide(&mut tab, false).await;
    tab.until(&format!("{} === 'Held for you'", part("#purchases", "state"))).await;
    assert_eq!(tab.evaluate("document.querySelector('#purchases [data-part=pay]').disabled").await, false);
    tab.close().await;
    browser.close().await;
}

#[tokio::test]
async fn the_board_shows_a_sale_as_it_goes_on() {
    let Some(browser) = Browser::find("the board").await else { return };
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _worker = shop.worker("w", &[]).await;
    let (_door, board) = with_board(&shop, &[]).await;
    let mut tab = Tab::open(&browser, "board", &board, "/").await;
    tab.until(&format!("{} === 'w'", part("#queues", "rest"))).await;
    tab.until(&format!("{} === '0'", part("#items", "held"))).await;
    tab.evaluate("states = 0; new EventSource('/board/events').addEventListener('state', () => { states += 1; })")
        .await;
    tab.until("states > 1").await;
    shop.purchase("r-1").await;
    tab.evaluate("states = 0").await;
    // They come twice a second; how long it takes is the machine's. `false` is none of them.
    let states = tab.until(&format!("{} === '1' && String(states)", part("#items", "held"))).await;
    assert!(states.as_str().is_some_and(|states| states.parse::<u32>().unwrap() <= 4), "within two seconds: {states}");
    shop.purchase("r-2").await;
    for code in ["reserved", "sold_out"] {
        tab.until(&format!("{} === '1'", part(&format!("#verdicts [data-key={code}]"), "value"))).await;
    }
    dead_letter(&shop, "r-3", &[("x-dead-reason", "not_handled"), ("x-dead-queue", "purchase.0")]).await;
    tab.until("document.querySelectorAll('#dead > li').length === 1").await;
    assert_eq!(tab.evaluate("document.querySelectorAll('button').length").await, 0, "nothing to change anything with");
    let json = [("Content-Type", "application/json"), ("Host", board.as_str())];
    for path in ["/board/items/ticket/close", "/board/items/ticket/buyers", "/board/dead/000000000000/drop"] {
        assert_eq!(ask(&board, "POST", path, &json, "{}").await.problem(), (403, "changes_off".into()), "{path}");
    }
    tab.close().await;
    browser.close().await;
}

/// Each figure is held against what the test has made of it.
#[tokio::test]
async fn every_figure_of_the_board_is_that_of_the_engine() {
    let Some(browser) = Browser::find("the board").await else { return };
    let mut shop = Shop::open(&[("ticket", 20)]).await;
    let (_door, board) = with_board(&shop, &[]).await;
    let mut tab = Tab::open(&browser, "board", &board, "/board").await;
    for number in 0..9 {
        shop.buy(&format!("r-{number}"), "ticket").await;
    }
    let text = |id: &str| format!("document.getElementById('{id}').textContent");
    let sum = "[...document.querySelectorAll('#queues [data-part=value]')].reduce((all, one) => all + Number(one.textContent), 0)";
    tab.until(&format!("{sum} === 9 && {} === '9' && {} === '0'", text("waiting"), text("worker-count"))).await;
    tab.until("document.querySelector('#depth-legend [data-part=last]').textContent === '9'").await;
    let _worker = shop.worker("w", &[]).await;
    tab.until(&format!("{sum} === 0 && {} === '1'", text("worker-count"))).await;
    for number in 9..19 {
        shop.buy(&format!("r-{number}"), "ticket").await;
    }
    tab.until(&format!("Number({}) > 3", text("pace"))).await;
    shop.replies(19).await;
    assert_eq!(tab.evaluate("document.body.textContent.includes('-0')").await, false, "nothing is less than nothing");
    shop.execute("UPDATE items SET conflicts = 7, held = 16, sold = 3").await;
    let figures = ["stock", "available", "held", "sold", "conflicts"].map(|name| part("#items", name)).join(", ");
    tab.until(&format!("`${{[{figures}]}}` === '20,1,16,3,7' && {} === '7'", text("conflicts"))).await;
    // No relay publishes what they have bought.
    tab.until(&format!("/^[1-9].*(ms|s|min)$/.test({})", text("lag"))).await;
    for (id, reason) in [("d-1", "not_handled"), ("d-2", "not_handled"), ("d-3", "unreadable")] {
        dead_letter(&shop, id, &[("x-dead-reason", reason), ("x-dead-queue", "purchase.0")]).await;
    }
    let reasons = "[...document.querySelectorAll('#reasons li')].map((one) => one.textContent).sort().join()";
    tab.until(&format!("{reasons} === 'not handled 2,unreadable 1' && {} === '3'", text("dead-count"))).await;
    assert_eq!(tab.evaluate(DRAWN_UP).await, json!([true, true]), "both curves have risen");
    tab.close().await;
    browser.close().await;
}

/// Of each chart: whether its first curve's colour is found above the lower third, where no curve is that has not risen.
const DRAWN_UP: &str = "['pace', 'depth'].map((id) => {
    const canvas = document.querySelector(`#${id}-chart canvas`);
    const context = canvas.getContext('2d');
    const { data } = context.getImageData(0, 0, canvas.width, Math.floor(canvas.height * 2 / 3));
    const probe = new OffscreenCanvas(1, 1).getContext('2d');
    probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--sold').trim();
    probe.fillRect(0, 0, 1, 1);
    const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
    for (let at = 0; at < data.length; at += 4) {
        const is_it = Math.abs(data[at] - red) + Math.abs(data[at + 1] - green) + Math.abs(data[at + 2] - blue) < 12;
        if (is_it && data[at + 3] > 200) return true;
    }
    return false;
})";

#[tokio::test]
async fn an_operator_replays_a_dead_letter_and_closes_a_sale_by_a_click() {
    let Some(browser) = Browser::find("the board").await else { return };
    let mut shop = Shop::open(&[("ticket", 2_000)]).await;
    let _workers = shop.workers(&["purchase", "restock"]).await;
    let (_door, board) = with_board(&shop, &[("BOARD_CHANGES", "true"), ("BOARD_DEMO", "true")]).await;
    let mut tab = Tab::open(&browser, "board", &board, "/board").await;
    let headers = [("x-dead-reason", "not_handled"), ("x-dead-message", "<b>why</b>"), ("x-dead-queue", "purchase.0")];
    dead_letter(&shop, "r-1", &headers).await;
    tab.until(&format!("{} === '<b>why</b>'", part("#dead", "message"))).await;
    assert_eq!(shop.depth("dead").await, 1, "it is where it was");
    tab.click("#dead button").await;
    assert_eq!(shop.reply_to("r-1").await.code(), "reserved");
    tab.until("document.querySelectorAll('#dead > li').length === 0").await;

    // What cannot be undone is asked for twice.
    dead_letter(&shop, "r-2", &headers).await;
    tab.until("document.querySelectorAll('#dead > li').length === 1").await;
    tab.click("#dead button:last-child").await;
    tab.until("document.querySelector('#dead button:last-child').textContent === 'Drop for good?'").await;
    assert_eq!(shop.depth("dead").await, 1);
    tab.click("#dead button:last-child").await;
    tab.until("document.querySelectorAll('#dead > li').length === 0").await;
    assert_eq!(shop.depth("dead").await, 0);

    tab.click("#items button").await;
    tab.until(&format!("{} === '1,001'", part("#items", "held"))).await;
    tab.click("#items button:last-child").await;
    tab.until(&format!("{} === 'Closed'", part("#items", "sale"))).await;
    assert_eq!(shop.purchase("r-3").await.code(), "sale_closed");
    tab.click("#items button:nth-last-child(2)").await;
    tab.until(&format!("{} === 'Open'", part("#items", "sale"))).await;
    assert_eq!(shop.purchase("r-4").await.code(), "reserved");
    tab.close().await;
    browser.close().await;
}

#[tokio::test]
async fn a_board_is_seen_by_who_knows_its_password_and_changed_by_its_own_page() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let (_open, address) = with_board(&shop, &[("BOARD_CHANGES", "true")]).await;
    let json = ("Content-Type", "application/json");
    let host = ("Host", address.as_str());
    let drop = "/board/dead/000000000000/drop";
    for (headers, expected) in [
        (&[host, json][..], (404, "unknown_dead_letter")),
        (
            &[host, json, ("Sec-Fetch-Site", "same-origin"), ("Origin", &format!("http://{address}"))],
            (404, "unknown_dead_letter"),
        ),
        (&[host, json, ("Sec-Fetch-Site", "cross-site")], (403, "another_origin")),
        (&[host, json, ("Sec-Fetch-Site", "same-site")], (403, "another_origin")),
        (&[host, json, ("Origin", "http://evil.example")], (403, "another_origin")),
        (&[host, json, ("Origin", "null")], (403, "another_origin")),
        (&[host, ("Content-Type", "text/plain")], (415, "unsupported_content_type")),
        // Whose name leads here today, and to themselves yesterday.
        (&[("Host", "evil.example"), ("Origin", "http://evil.example"), json], (403, "not_by_address")),
    ] {
        let (status, code) = ask(&address, "POST", drop, headers, "{}").await.problem();
        assert_eq!((status, code.as_str()), expected, "{headers:?}");
    }
    let unreadable = ask(&address, "POST", "/board/dead/%ff/drop", &[host, json], "{}").await;
    assert_eq!(unreadable.problem(), (404, "not_found".into()));
    let (_closed, address) = with_board(&shop, &[("BOARD_PASSWORD", "pass:word")]).await;
    let get = async |headers: &[(&str, &str)]| ask(&address, "GET", "/board", headers, "").await;
    let unknown = get(&[]).await;
    assert_eq!(unknown.problem(), (401, "no_password".into()));
    assert!(unknown.header("www-authenticate").is_some_and(|asks| asks.starts_with("basic ")));
    assert_eq!(get(&[("Authorization", "Basic YW5uOnBhc3M=")]).await.status, 401);
    assert_eq!(get(&[("Authorization", "Basic YW5uOnBhc3M6d29yZA==")]).await.status, 200);
}
