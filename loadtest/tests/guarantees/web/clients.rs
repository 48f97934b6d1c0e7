//! The programs in functions/web/clients, which engineers copy, do what they say, as they stand.

use super::client::Door;
use crate::clients::{folder, is_had};
use crate::support::shop::Shop;
use serde_json::Value;
use tokio::process::Command;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/web/clients");

#[tokio::test]
async fn the_clients_of_a_door_buy_one_are_refused_the_next_and_get_their_verdict_again() {
    let (folder, _lock) = folder("python-requests");
    let python = folder.join("bin/python").display().to_string();
    let install = [vec!["python3", "-m", "venv", "."], vec![&python, "-m", "pip", "install", "requests"]];
    for (script, runs, loads, install) in [
        ("buy.sh", "sh", &["curl", "--version"][..], &[][..]),
        ("buy.mjs", "node", &["node", "--eval", "fetch"], &[]),
        ("buy.py", &python, &[&python, "-c", "import requests"], &install),
    ] {
        if !is_had(&folder, script, loads, install).await {
            continue;
        }
        let shop = Shop::open(&[("ticket", 1)]).await;
        let _worker = shop.worker("w", &[]).await;
        let door = Door::open(&shop, "door", &[]).await;
        let buy = async |arguments: &[&str]| {
            let mut command = Command::new(runs);
            command.arg(format!("{CLIENTS}/{script}")).args(arguments).env("DOOR", format!("http://{}", door.address));
            let output = command.kill_on_drop(true).output().await.unwrap();
            let verdict: Value =
                serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{script}: {output:?}"));
            (output.status.code(), verdict)
        };
        let sold = buy(&["ticket", "b-1", "1", "r-1"]).await;
        assert_eq!((sold.0, &sold.1["code"]), (Some(0), &"reserved".into()), "{script}");
        let refused = buy(&["ticket", "b-2", "1"]).await;
        assert_eq!((refused.0, &refused.1["code"]), (Some(1), &"sold_out".into()), "{script}");
        assert_eq!(buy(&["ticket", "b-1", "1", "r-1"]).await, sold, "{script}");
    }
}
