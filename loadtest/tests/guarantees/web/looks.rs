//! Both pages for whoever comes: on a narrow screen, by night, by the keyboard, and by what a screen reader is told.

use super::client::Door;
use super::pages::{part, until_left, with_board};
use crate::admin::dead::dead_letter;
use crate::support::browser::Browser;
use crate::support::shop::Shop;
use crate::support::tab::{Look, Tab};
use serde_json::{Value, json};

/// What can be operated, as Chromium calls it.
const CONTROLS: [&str; 7] = ["button", "link", "textbox", "spinbutton", "checkbox", "combobox", "DisclosureTriangle"];
/// Nobody goes on for so long.
const TABS_MAX: usize = 20;

async fn press(tab: &mut Tab, key: &str, code: u32, text: &str) {
    for kind in ["keyDown", "keyUp"] {
        let press = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
        tab.ask("Input.dispatchKeyEvent", press).await;
    }
}

/// How many controls it has; each has a name.
async fn controls(tab: &mut Tab) -> usize {
    let tree = tab.ask("Accessibility.getFullAXTree", json!({})).await;
    let is_control = |node: &&Value| {
        let is_shown = node["ignored"] == false;
        is_shown && CONTROLS.iter().any(|role| node["role"]["value"] == *role)
    };
    let controls: Vec<&Value> = tree["nodes"].as_array().unwrap().iter().filter(is_control).collect();
    let name = |node: &&&Value| node["name"]["value"].as_str().unwrap_or_default().is_empty();
    assert_eq!(controls.iter().filter(name).collect::<Vec<_>>(), [] as [&&Value; 0], "controls without a name");
    controls.len()
}

/// As wide as a small telephone, and by night.
async fn narrow_and_dark(tab: &mut Tab) {
    tab.look(Look::Phone).await;
    let wide = "document.documentElement.scrollWidth";
    tab.until(&format!("innerWidth === 360 && {wide} <= 360")).await;
    let light = |name: &str| {
        let sum = "match(/[0-9.]+/g).slice(0, 3).reduce((all, one) => all + Number(one), 0)";
        format!("getComputedStyle(document.body).{name}.{sum}")
    };
    let (ground, ink) = (light("backgroundColor"), light("color"));
    tab.until(&format!("{ground} > 3 * 200 && {ink} < 3 * 80")).await;
    tab.look(Look::Dark).await;
    tab.until(&format!("{ground} < 3 * 60 && {ink} > 3 * 180")).await;
}

#[tokio::test]
async fn the_shop_is_usable_on_a_narrow_screen_by_night_by_keyboard_and_by_name() {
    let Some(browser) = Browser::find("the shop").await else { return };
    let shop = Shop::open(&[("a-concert-with-a-name-that-is-longer-than-a-telephone-is-wide-2026", 5)]).await;
    let _worker = shop.worker("w", &[]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let mut tab = Tab::open(&browser, "tab", &door.address, "/").await;
    until_left(&mut tab, 5).await;
    let is_buy = "document.activeElement.textContent === 'Buy'";
    for _ in 0..TABS_MAX {
        if tab.evaluate(is_buy).await == true {
            break;
        }
        press(&mut tab, "Tab", 9, "").await;
    }
    assert_eq!(tab.evaluate(is_buy).await, true, "it is reached by Tab");
    press(&mut tab, "Enter", 13, "\r").await;
    tab.until(&format!("{} === 'Held for you'", part("#purchases", "state"))).await;
    assert!(controls(&mut tab).await >= 6, "buyer, quantity, buy, pay, let go, what was said");
    narrow_and_dark(&mut tab).await;
    tab.close().await;
    browser.close().await;
}

#[tokio::test]
async fn the_board_is_usable_on_a_narrow_screen_by_night_and_by_name() {
    let Some(browser) = Browser::find("the board").await else { return };
    let shop = Shop::open(&[("ticket", 5)]).await;
    let _worker = shop.worker("w", &[]).await;
    let (_door, board) = with_board(&shop, &[("BOARD_CHANGES", "true"), ("BOARD_DEMO", "true")]).await;
    dead_letter(&shop, "r-1", &[("x-dead-reason", "not_handled"), ("x-dead-queue", "purchase.0")]).await;
    let mut tab = Tab::open(&browser, "board", &board, "/board").await;
    tab.until("document.querySelectorAll('#dead button').length === 2").await;
    tab.until("document.querySelectorAll('#items button').length === 3").await;
    assert!(controls(&mut tab).await >= 6);
    narrow_and_dark(&mut tab).await;
    tab.close().await;
    browser.close().await;
}
