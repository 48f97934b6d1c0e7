//! A page in a real browser that lives on while it is looked at: Chromium's own protocol (CDP), over its standard streams.
//!
//! Not by WebDriver: its driver has to be of the browser's very version, and says neither what went wrong on the page nor what
//! the page asked of whom.

use super::browser::{Browser, command};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// No answer takes this long, also on a machine that is busy.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// How long a page may take to come to what is waited for.
const UNTIL_MS_MAX: u64 = 60_000;
/// The browser takes commands at descriptor 3 and answers at 4: these are the streams that it was started with.
const PIPED: &str = "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null";

pub(crate) struct Tab {
    browser: Child,
    commands: ChildStdin,
    said: BufReader<ChildStdout>,
    session: Option<String>,
    sent: u64,
    origin: String,
    /// Errors that the page had, and requests to others than who served it.
    pub(crate) faults: Vec<String>,
}

/// What a page is shown as.
#[derive(Clone, Copy)]
pub(crate) enum Look {
    Light,
    Dark,
    /// Light, and as wide as a small telephone.
    Phone,
}

impl Tab {
    /// Opens the address; `name` is none that another tab of the browser had.
    pub(crate) async fn open(browser: &Browser, name: &str, address: &str, path: &str) -> Self {
        let mut tab = Self::empty(browser, name, format!("http://{address}")).await;
        tab.go(path).await;
        tab.until("document.readyState === 'complete'").await;
        tab
    }

    /// With no page yet; what it will be shown is of this origin.
    pub(crate) async fn empty(browser: &Browser, name: &str, origin: String) -> Self {
        let mut arguments = ["sh", "-c", PIPED, "sh"].map(str::to_owned).to_vec();
        arguments.extend(browser.arguments(&browser.folder.path().join(name)));
        arguments.push("--remote-debugging-pipe".to_owned());
        let mut browser = command(&arguments).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (commands, said) = (browser.stdin.take().unwrap(), BufReader::new(browser.stdout.take().unwrap()));
        let mut tab = Self { browser, commands, said, session: None, sent: 0, origin, faults: Vec::new() };
        let target = tab.ask("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        tab.session = tab.ask("Target.attachToTarget", attach).await["sessionId"].as_str().map(ToOwned::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            tab.ask(domain, json!({})).await;
        }
        tab
    }

    pub(crate) async fn go(&mut self, path: &str) {
        self.ask("Page.navigate", json!({ "url": format!("{}{path}", self.origin) })).await;
    }

    pub(crate) async fn look(&mut self, look: Look) {
        if let Look::Phone = look {
            let screen = json!({ "width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": false });
            self.ask("Emulation.setDeviceMetricsOverride", screen).await;
        }
        let scheme = if let Look::Dark = look { "dark" } else { "light" };
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.ask("Emulation.setEmulatedMedia", scheme).await;
    }

    /// Has the browser do something, and waits for its answer.
    pub(crate) async fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.sent += 1;
        let mut command = json!({ "id": self.sent, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).await.unwrap();
        loop {
            let mut message = Vec::new();
            tokio::time::timeout(WAIT_MAX, self.said.read_until(0, &mut message)).await.expect(method).unwrap();
            assert_eq!(message.pop(), Some(0), "the browser ended while it was asked for {method}");
            let message: Value = serde_json::from_slice(&message).unwrap();
            if message["id"] == self.sent {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        let is_foreign = |url: &str| {
            let ours = [self.origin.as_str(), "data:", "blob:"];
            !ours.iter().any(|ours| url.starts_with(ours)) && url != "about:blank"
        };
        let is_fault = match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Inspector.targetCrashed" => true,
            "Runtime.consoleAPICalled" => ["error", "warning", "assert"].iter().any(|kind| parameters["type"] == *kind),
            "Log.entryAdded" => parameters["entry"]["level"] == "error",
            "Network.requestWillBeSent" => parameters["request"]["url"].as_str().is_some_and(is_foreign),
            // It was told of before the page's own policy stopped it.
            "Network.loadingFailed" if parameters["blockedReason"] == "csp" => {
                let of_it = format!("\"requestId\":{}", parameters["requestId"]);
                self.faults.retain(|fault| !fault.contains(&of_it));
                false
            }
            _ => false,
        };
        if is_fault {
            self.faults.push(message.to_string());
        }
    }

    /// What the expression comes to, awaited where it is a promise.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.ask("Runtime.evaluate", parameters).await;
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// Waits until the expression is true of the page, and says what it is then.
    pub(crate) async fn until(&mut self, expression: &str) -> Value {
        let waiting = format!(
            "new Promise((resolve, reject) => {{
               const end = Date.now() + {UNTIL_MS_MAX};
               const look = () => {{
                 const seen = (() => {{ try {{ return {expression}; }} catch {{ return null; }} }})();
                 if (seen) resolve(seen);
                 else if (Date.now() > end) reject(new Error(document.body.innerText));
                 else setTimeout(look, 20);
               }};
               look();
             }})"
        );
        self.evaluate(&waiting).await
    }

    /// Presses the mouse in the middle of the first element that is selected.
    pub(crate) async fn click(&mut self, selector: &str) {
        let place = format!(
            "(() => {{ const found = document.querySelector({selector:?}); found.scrollIntoView({{ block: 'center' }});
               const {{ x, y, width, height }} = found.getBoundingClientRect(); return [x + width / 2, y + height / 2]; }})()"
        );
        let place = self.evaluate(&place).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let press = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.ask("Input.dispatchMouseEvent", press).await;
        }
    }

    /// Nothing went wrong on the page, and it asked nobody else for anything.
    pub(crate) async fn close(self) {
        assert_eq!(self.faults().await, [] as [String; 0]);
    }

    /// Closes it, and says what went wrong.
    pub(crate) async fn faults(mut self) -> Vec<String> {
        // What the browser has yet to say comes before its answer.
        self.evaluate("1").await;
        self.session = None;
        self.ask("Browser.close", json!({})).await;
        self.browser.wait().await.unwrap();
        self.faults
    }
}
