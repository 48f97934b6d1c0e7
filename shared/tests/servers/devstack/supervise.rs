//! A supervised program: how it ends, and that it ends.

use super::{await_gone, is_running};
use nix::unistd::{Pid, getpgid, getpgrp};
use shared::devstack::{Program, Signal, Supervised};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Longer than any test waits: what ends sooner was ended.
const FOR_EVER: &str = "1000000";
/// Enough for a shell to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(20);
/// For those who do not end when told to.
const IMPATIENCE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn an_exit_code_comes_through() {
    for code in [0, 1, 69, 99] {
        let mut program = shell(&format!("exit {code}")).await;
        assert_eq!(program.wait().await.unwrap().code(), Some(code));
        assert_eq!(program.wait().await.unwrap().code(), Some(code), "asked again");
    }
}

#[tokio::test]
async fn a_program_that_a_signal_ended_has_128_and_its_number_as_code() {
    let mut program = Supervised::spawn(sleeper()).await.unwrap();
    program.send(Signal::Kill).unwrap();
    assert_eq!(program.wait().await.unwrap().code(), Some(128 + 9));
    assert!(!is_running(program.pid()));
    program.send(Signal::Terminate).unwrap();
}

#[tokio::test]
async fn the_process_id_is_the_programs_own() {
    let log = Log::new();
    let mut program = Supervised::spawn(script("echo $$; exit 3").log(&log.0)).await.unwrap();
    program.wait().await.unwrap();
    assert_eq!(log.text(), format!("{}\n", program.pid()));
}

#[tokio::test]
async fn arguments_environment_and_folder_arrive_and_both_outputs_go_to_the_log() {
    let log = Log::new();
    let program = script(r#"echo "$1,$2"; echo "$COLOUR" >&2; pwd; cat; exit 5"#)
        .args(["name", "two words", "a'quote"])
        .env("COLOUR", "blue and red")
        .folder("/")
        .log(&log.0);
    let mut program = Supervised::spawn(program).await.unwrap();
    assert_eq!(program.wait().await.unwrap().code(), Some(5), "nothing to read on its standard input");
    assert_eq!(log.text(), "two words,a'quote\nblue and red\n/\n");
}

#[tokio::test]
async fn a_stop_sends_the_chosen_signal_and_waits_for_the_end() {
    let log = Log::new();
    let program = script("trap 'echo told; exit 4' TERM; echo ready; while :; do sleep 0.01; done");
    let mut program = Supervised::spawn(program.log(&log.0).stop(Signal::Terminate, PATIENCE)).await.unwrap();
    log.await_line("ready").await;
    assert_eq!(program.stop().await.unwrap().code(), Some(4));
    assert_eq!(log.text(), "ready\ntold\n");
    assert!(!is_running(program.pid()));
}

#[tokio::test]
async fn a_program_that_does_not_stop_in_time_is_killed() {
    let log = Log::new();
    let program = script("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    let mut program = Supervised::spawn(program.log(&log.0).stop(Signal::Terminate, IMPATIENCE)).await.unwrap();
    log.await_line("ready").await;
    assert_eq!(program.stop().await.unwrap().code(), Some(128 + 9));
}

#[tokio::test]
async fn a_suspended_program_can_be_stopped() {
    let mut program = Supervised::spawn(sleeper().stop(Signal::Terminate, PATIENCE)).await.unwrap();
    program.send(Signal::Stop).unwrap();
    assert_eq!(program.stop().await.unwrap().code(), Some(128 + 15), "by the signal, not by a kill");
}

#[tokio::test]
async fn a_dropped_program_ends() {
    let program = Supervised::spawn(sleeper()).await.unwrap();
    let pid = program.pid();
    assert!(is_running(pid));
    drop(program);
    await_gone("a dropped program", || !is_running(pid)).await;
}

#[tokio::test]
async fn one_program_does_not_keep_another_from_ending() {
    let first = Supervised::spawn(sleeper()).await.unwrap();
    // It starts while the first one's socket is open, and must not inherit it.
    let second = Supervised::spawn(sleeper()).await.unwrap();
    let pid = first.pid();
    drop(first);
    await_gone("the first program", || !is_running(pid)).await;
    assert!(is_running(second.pid()));
}

#[tokio::test]
async fn what_a_terminal_sends_to_us_does_not_reach_the_program() {
    let program = Supervised::spawn(sleeper()).await.unwrap();
    let group = getpgid(Some(Pid::from_raw(program.pid().try_into().unwrap()))).unwrap();
    assert_ne!(group, getpgrp());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let refusal = Supervised::spawn(Program::new("/no/such/program")).await.unwrap_err();
    assert_eq!(refusal.to_string(), "there is no program /no/such/program");
}

fn sleeper() -> Program {
    script("exec sleep \"$1\"").args(["name", FOR_EVER])
}

fn script(text: &str) -> Program {
    Program::new("/bin/sh").args(["-c", text])
}

async fn shell(text: &str) -> Supervised {
    Supervised::spawn(script(text)).await.unwrap()
}

/// A log that is removed at the end.
struct Log(PathBuf);

impl Log {
    fn new() -> Log {
        Log(std::env::temp_dir().join(format!("turnstile-log-{}", uuid::Uuid::now_v7().simple())))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }

    async fn await_line(&self, line: &str) {
        await_gone("the silence", || self.text().lines().any(|written| written == line)).await;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
