//! `cargo up`: what it prints works as it stands, and nothing of it is left, however it ends.

use super::JSON;
use super::client::ask;
use super::orders::order_of;
use crate::architecture::ROOT;
use crate::clients;
use crate::support::sale::{assert_fails, command, endpoints, none_given, signal};
use crate::support::shop::until;
use loadtest::servers::Endpoints;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use shared::db;
use shared::devstack::Folder;
use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::Mutex;
use uuid::Uuid;

/// One after the other.
static STARTING: Mutex<()> = Mutex::const_new(());
/// What all of its processes have in their environment.
const MARK: &str = "UP_OF_TEST";

struct Up {
    process: Child,
    mark: String,
    /// What it prints.
    lines: Vec<String>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Up {
    async fn start(endpoints: &Endpoints) -> Self {
        Self::start_as("up", endpoints).await
    }

    async fn start_as(line: &str, endpoints: &Endpoints) -> Self {
        // A port that is free when it is looked for is taken only when the door is started.
        let _starting = STARTING.lock().await;
        let mark = Uuid::now_v7().to_string();
        let mut command = command(endpoints, line).await;
        command.current_dir(ROOT).env(MARK, &mark).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut printed = BufReader::new(process.stdout.take().unwrap()).lines();
        let errors = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut lines: Vec<String> = Vec::new();
        while !lines.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
            lines.push(printed.next_line().await.unwrap().expect("it says what there is"));
        }
        Self { process, mark, lines, errors }
    }

    /// Where the line is that begins with these words.
    fn find(&self, words: &str) -> usize {
        self.lines
            .iter()
            .position(|line| line.starts_with(words))
            .unwrap_or_else(|| panic!("{words}: {:?}", self.lines))
    }

    /// The end of that line.
    fn place(&self, words: &str) -> &str {
        self.lines[self.find(words)].split_whitespace().last().unwrap()
    }

    /// Where its shop is, for who speaks HTTP.
    fn shop(&self) -> &str {
        self.place("The shop:").trim_start_matches("http://").trim_end_matches('/')
    }

    /// Its database, as functions reach it.
    fn database_url(&self) -> &str {
        let line = &self.lines[self.find("# start one more worker") + 1];
        let url = line.split_whitespace().find_map(|word| word.strip_prefix("DATABASE_URL="));
        url.unwrap_or_else(|| panic!("{line}")).trim_matches('\'')
    }

    /// A shell that is given the line below that one, in the project's top folder.
    fn pasted(&self, words: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &self.lines[self.find(words) + 1]]).current_dir(ROOT).stdin(Stdio::null()).kill_on_drop(true);
        shell.env_remove("AMQP_URL").env_remove("DATABASE_URL").process_group(0);
        shell
    }

    async fn paste(&self, words: &str) -> String {
        let Output { status, stdout, stderr } = self.pasted(words).output().await.unwrap();
        assert!(status.success(), "{words}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// The processes of it.
    fn left(&self) -> Vec<PathBuf> {
        let mark = format!("{MARK}={}", self.mark).into_bytes();
        let is_of_it = |process: &PathBuf| {
            fs::read(process.join("environ")).is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == mark))
        };
        fs::read_dir("/proc").unwrap().filter_map(|process| Some(process.ok()?.path())).filter(is_of_it).collect()
    }

    /// The process of one of its programs.
    fn pid_of(&self, program: &str) -> u32 {
        let is_it =
            |process: &&PathBuf| fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == program);
        let process = self.left().iter().find(is_it).unwrap().file_name().unwrap().to_owned();
        process.to_str().unwrap().parse().unwrap()
    }

    async fn ends_by(mut self, by: Signal, code: Option<i32>) {
        let logs = self.place("The logs:").to_owned();
        assert!(self.left().len() > 10 && fs::exists(&logs).unwrap(), "servers and functions: {:?}", self.left());
        signal(self.process.id().unwrap(), by);
        assert_eq!(self.process.wait().await.unwrap().code(), code);
        until("no process of it is left", async || self.left().is_empty()).await;
        until("no file of it is left", async || !fs::exists(&logs).unwrap()).await;
    }
}

#[tokio::test]
async fn what_up_prints_works_as_it_stands_and_ctrl_c_leaves_nothing_behind() {
    let mut up = Up::start(&none_given()).await;
    let bought: Value = serde_json::from_str(&up.paste("# buy by HTTP").await).unwrap();
    assert_eq!(bought["code"], "reserved", "{bought}");
    let ordered = up.paste("# the same for operators").await;
    assert!(ordered.starts_with("reserved: "), "{ordered}");
    let items = up.paste("# look at the stock").await;
    let figures: Vec<&str> = items.lines().nth(1).unwrap().split_whitespace().take(5).collect();
    assert_eq!(figures, ["concert-42", "100", "98", "2", "0"], "{items}");

    if let Some(folder) = clients::python().await {
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let bought = up.pasted("# buy by a message").env("PATH", path).output().await.unwrap();
        assert!(bought.status.success(), "{bought:?}");
    }

    // As webbrowser(1) opens it in whatever $BROWSER names.
    let mut opened = up.pasted("# open the shop");
    let opened = opened.env("BROWSER", "curl -sSf %s").output().await.unwrap();
    assert!(String::from_utf8_lossy(&opened.stdout).contains("<title>Shop"), "{opened:?}");
    let board = up.place("The board:").trim_start_matches("http://").trim_end_matches("/board");
    let buyers = ask(board, "POST", "/board/items/concert-42/buyers", &[JSON, ("Host", board)], "{}").await;
    assert_eq!(buyers.status, 200, "{buyers:?}");

    let mut worker = up.pasted("# start one more worker").stderr(Stdio::piped()).spawn().unwrap();
    let mut logged = BufReader::new(worker.stderr.take().unwrap()).lines();
    while !logged.next_line().await.unwrap().expect("it goes on").contains("consuming") {}
    killpg(Pid::from_raw(worker.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    worker.wait().await.unwrap();
    for page in ["The shop:", "The board:"] {
        let shown = Command::new("curl").args(["-sSf", up.place(page)]).output().await.unwrap();
        assert!(shown.status.success(), "{shown:?}");
    }
    signal(up.pid_of("payment"), Signal::SIGKILL);
    while !up.errors.next_line().await.unwrap().expect("it goes on").contains("worker=\"payment-1\"") {}
    up.ends_by(Signal::SIGINT, Some(130)).await;
}

#[tokio::test]
async fn an_up_that_is_killed_leaves_nothing_behind() {
    Up::start(&none_given()).await.ends_by(Signal::SIGKILL, None).await;
}

#[tokio::test]
async fn an_up_on_servers_that_are_given_leaves_them_with_what_was_sold_and_shows_no_password() {
    let endpoints = endpoints().await;
    for available in [99, 98] {
        let up = Up::start(&endpoints).await;
        assert!(!up.lines.iter().any(|line| line.contains("guest") || line.contains("_URL=")), "{:?}", up.lines);
        up.paste("# buy by HTTP").await;
        up.ends_by(Signal::SIGINT, Some(130)).await;
        let pool = db::pool(&endpoints.database_url, "test", 1).unwrap();
        let left = sqlx::query_scalar::<_, i64>("SELECT available FROM items WHERE id = 'concert-42'");
        assert_eq!(left.fetch_one(&pool).await.unwrap(), available);
    }
}

/// As if it had never ended: what was sold, what was told, and what waited in the queue.
#[tokio::test]
async fn an_up_that_keeps_its_data_goes_on_with_them_however_it_ended() {
    let place = Folder::create().unwrap();
    let kept = place.path().join("kept");
    let line = format!("up --keep {}", kept.display());
    let buy = async |up: &Up, id: &str, wait: &str| {
        let headers = [JSON, ("Idempotency-Key", id), ("Prefer", wait)];
        ask(up.shop(), "POST", "/items/concert-42/purchases", &headers, r#"{"buyer":"ann","quantity":1}"#).await
    };
    let up = Up::start_as(&line, &none_given()).await;
    let sold = buy(&up, "r-1", "wait=60").await;
    assert_fails(&none_given(), &line, 78, "is in use by another `cargo up`").await;
    // Nothing is decided while somebody has the item's row.
    let pool = db::pool(up.database_url(), "test", 1).unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM items WHERE id = 'concert-42' FOR UPDATE").execute(&mut *lock).await.unwrap();
    assert_eq!(buy(&up, "r-2", "wait=0").await.status, 202);
    up.ends_by(Signal::SIGKILL, None).await;
    drop((lock, pool));

    let up = Up::start_as(&line, &none_given()).await;
    assert_eq!(buy(&up, "r-1", "wait=60").await.body, sold.body);
    let told = ask(up.shop(), "GET", "/purchases/r-2?item=concert-42", &[("Prefer", "wait=60")], "").await;
    assert_eq!((told.status, told.code()), (200, "reserved".into()), "it waited in the queue");
    let path = format!("/orders/{}/payment", order_of(&sold));
    let paid = ask(up.shop(), "POST", &path, &[JSON, ("Prefer", "wait=60")], r#"{"payment_method":"card"}"#).await;
    assert_eq!(paid.code(), "paid");
    up.ends_by(Signal::SIGINT, Some(130)).await;

    let up = Up::start_as(&line, &none_given()).await;
    let item = ask(up.shop(), "GET", "/items/concert-42", &[], "").await.json();
    assert_eq!([&item["stock"], &item["available"], &item["held"], &item["sold"]], [100, 98, 1, 1]);
    up.ends_by(Signal::SIGINT, Some(130)).await;

    fs::write(kept.join("postgres/PG_VERSION"), "9\n").unwrap();
    assert_fails(&none_given(), &line, 78, "was made by PostgreSQL 9, and this is 1").await;
    fs::remove_file(kept.join("kept-by-turnstile")).unwrap();
    assert_fails(&none_given(), &line, 78, "has something in it that is not ours").await;
    assert!(fs::exists(kept.join("postgres/PG_VERSION")).unwrap());
    place.remove().await.unwrap();
}
