//! A supervised program: how it ends, and that it ends.

use super::{await_gone, is_running};
use nix::unistd::{Pid, getpgid, getpgrp};
use shared::devstack::{Folder, Program, Signal, Supervised};
use std::fs;
use std::time::Duration;

/// Enough for a shell to end when it is told to.
const STOP_MAX: Duration = Duration::from_secs(20);
/// For those who do not end when told to.
const STOP_MAX_SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn what_a_program_is_given_arrives_and_its_output_process_id_and_exit_code_come_back() {
    let folder = Folder::create().unwrap();
    let log = folder.path().join("log");
    let program = script(r#"echo "$1,$2"; echo "$COLOUR" >&2; pwd; cat; echo $$; env | grep ^WATCHDOG; exit 5"#)
        .args(["name", "two words", "a'quote"])
        .env("COLOUR", "blue and red")
        .folder("/")
        .log(&log);
    let mut program = Supervised::spawn(program).await.unwrap();
    assert_eq!(program.wait().await.unwrap().code(), Some(5), "nothing to read on its standard input");
    assert_eq!(program.wait().await.unwrap().code(), Some(5), "asked again");
    let expected = format!("two words,a'quote\nblue and red\n/\n{}\n", program.pid());
    assert_eq!(fs::read_to_string(log).unwrap(), expected);
    let refusal = Supervised::spawn(Program::new("/no/such/program")).await.unwrap_err();
    assert_eq!(refusal.to_string(), "there is no program /no/such/program");
}

#[tokio::test]
async fn a_stop_sends_the_chosen_signal_and_waits_for_the_end_which_a_kill_brings_where_nothing_else_does() {
    let folder = Folder::create().unwrap();
    let log = folder.path().join("log");
    for (script_of, wait_max, before, code) in [
        ("trap 'echo told; exit 4' TERM; echo ready; while :; do sleep 0.01; done", STOP_MAX, None, 4),
        ("trap '' TERM; echo ready; while :; do sleep 0.01; done", STOP_MAX_SHORT, None, 128 + 9),
        // By the signal, not by a kill.
        ("echo ready; exec sleep 1000000", STOP_MAX, Some(Signal::SIGSTOP), 128 + 15),
        ("echo ready; exec sleep 1000000", STOP_MAX, Some(Signal::SIGKILL), 128 + 9),
    ] {
        let program = script(script_of).log(&log).stop(Signal::SIGTERM, wait_max);
        let mut program = Supervised::spawn(program).await.unwrap();
        await_gone("the silence", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready\n"))).await;
        if let Some(signal) = before {
            program.send(signal).unwrap();
        }
        assert_eq!(program.stop().await.unwrap().code(), Some(code), "{script_of}");
        assert!(!is_running(program.pid()));
        program.send(Signal::SIGTERM).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap().contains("told\n"), code == 4);
        fs::remove_file(&log).unwrap();
    }
}

#[tokio::test]
async fn a_dropped_program_ends_and_no_other_keeps_it_from_that() {
    let sleeper = || script("exec sleep 1000000");
    let first = Supervised::spawn(sleeper()).await.unwrap();
    // It starts while the first one's socket is open, and must not inherit it.
    let second = Supervised::spawn(sleeper()).await.unwrap();
    let pid = first.pid();
    assert!(is_running(pid));
    let group = getpgid(Some(Pid::from_raw(pid.try_into().unwrap()))).unwrap();
    assert_ne!(group, getpgrp(), "what a terminal sends to us does not reach it");
    drop(first);
    await_gone("the first program", || !is_running(pid)).await;
    assert!(is_running(second.pid()));
}

fn script(text: &str) -> Program {
    Program::new("/bin/sh").args(["-c", text])
}
