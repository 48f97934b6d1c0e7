//! `cargo up`: what it prints works as it stands, and nothing of it is left, however it ends.

use crate::{
    architecture::ROOT,
    clients,
    support::{
        sale::{command, endpoints, none_given, signal},
        shop::until,
    },
};
use loadtest::servers::Endpoints;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;
use shared::db;
use std::{
    fs,
    process::{Output, Stdio},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use uuid::Uuid;

/// What all of its processes have in their environment.
const MARK: &str = "UP_OF_TEST";

struct Up {
    process: Child,
    mark: String,
    /// What it prints.
    lines: Vec<String>,
}

impl Up {
    async fn start(endpoints: &Endpoints) -> Self {
        let mark = Uuid::now_v7().to_string();
        let mut command = command(endpoints, "up").await;
        command.current_dir(ROOT).env(MARK, &mark).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut printed = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut lines: Vec<String> = Vec::new();
        while !lines.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
            lines.push(printed.next_line().await.unwrap().expect("it says what there is"));
        }
        Self { process, mark, lines }
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

    fn left(&self) -> usize {
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let environments = processes.filter_map(|process| fs::read(process.path().join("environ")).ok());
        let mark = format!("{MARK}={}", self.mark).into_bytes();
        environments.filter(|all| all.split(|byte| *byte == 0).any(|one| one == mark)).count()
    }

    async fn ends_by(mut self, by: Signal, code: Option<i32>) {
        let logs = self.place("The logs:").to_owned();
        assert!(self.left() > 10 && fs::exists(&logs).unwrap(), "servers and functions: {}", self.left());
        signal(self.process.id().unwrap(), by);
        assert_eq!(self.process.wait().await.unwrap().code(), code);
        until("no process of it is left", async || self.left() == 0).await;
        until("no file of it is left", async || !fs::exists(&logs).unwrap()).await;
    }
}

#[tokio::test]
async fn what_up_prints_works_as_it_stands_and_ctrl_c_leaves_nothing_behind() {
    let up = Up::start(&none_given()).await;
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

    let mut worker = up.pasted("# start one more worker").stderr(Stdio::piped()).spawn().unwrap();
    let mut logged = BufReader::new(worker.stderr.take().unwrap()).lines();
    while !logged.next_line().await.unwrap().expect("it goes on").contains("consuming") {}
    killpg(Pid::from_raw(worker.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    worker.wait().await.unwrap();
    for page in ["The shop:", "The board:"] {
        let shown = Command::new("curl").args(["-sSf", up.place(page)]).output().await.unwrap();
        assert!(shown.status.success(), "{shown:?}");
    }
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
