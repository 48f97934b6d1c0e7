//! CPU time of processes and of all that they started, as Linux accounts for it.
//!
//! Nothing is lost when a child ends between two readings: its time is then its parent's, as time of a child that was
//! waited for. (A child that its parent never waits for would be; neither server has such children.)

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;
use std::collections::HashMap;
use std::fs;

/// Microseconds of a tick of the times in `/proc/PID/stat` (1 / `USER_HZ`): the same on every architecture that Rust runs
/// on under Linux.
const TICK_US: f64 = 10_000.0;
/// How often the processes are read until none of them ended meanwhile.
const READINGS_MAX: u32 = 20;

/// Microseconds of CPU time, in all or for each purchase; `null` for whoever does not run on this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct CpuTimes {
    /// The Erlang machine, with the programs that it starts.
    pub(super) broker: Option<f64>,
    pub(super) workers: Option<f64>,
    pub(super) database: Option<f64>,
    /// This program: no cost of a purchase, but it may be on the same cores.
    pub(super) buyers: Option<f64>,
}

impl CpuTimes {
    /// Each time with the other one's; unknown where one of them is.
    pub(super) fn zip(self, other: Self, with: impl Fn(f64, f64) -> f64) -> Self {
        let both = |one: Option<f64>, other: Option<f64>| Some(with(one?, other?));
        Self {
            broker: both(self.broker, other.broker),
            workers: both(self.workers, other.workers),
            database: both(self.database, other.database),
            buyers: both(self.buyers, other.buyers),
        }
    }
}

/// What one process says of itself, in ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Process {
    pid: u32,
    parent: u32,
    own: f64,
    /// Of its children that have ended and were waited for.
    ended: f64,
}

/// The CPU time of the process and of everything below it, since they started.
///
/// The processes are read one after the other. A child that ends in between would be missed, by itself and with its parent;
/// the parent has waited for it then, so all are read again.
pub(super) fn of_tree(root: u32) -> Option<f64> {
    let read = |pid: u32| parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    for _ in 0..READINGS_MAX {
        let before = read(root)?;
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ticks = tree(pids.filter_map(read), root)?;
        if read(root)?.ended == before.ended {
            return Some(ticks * TICK_US);
        }
    }
    None
}

/// The CPU time of this process alone.
pub(super) fn ours() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some((usage.user_time() + usage.system_time()).num_microseconds() as f64)
}

/// Reads `PID (NAME) STATE PARENT …`; the name may hold spaces and brackets. Of the fields after it, counted from zero, the
/// 11th to 14th are user and system time, and the same of children that have ended and were waited for.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let fields: Vec<&str> = rest.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    let (own, ended) = (ticks(11)? + ticks(12)?, ticks(13)? + ticks(14)?);
    Some(Process { pid: pid.parse().ok()?, parent: fields.get(1)?.parse().ok()?, own, ended })
}

fn tree(processes: impl Iterator<Item = Process>, root: u32) -> Option<f64> {
    let (mut children, mut left): (HashMap<u32, Vec<Process>>, _) = (HashMap::new(), Vec::new());
    for process in processes {
        let siblings = if process.pid == root { &mut left } else { children.entry(process.parent).or_default() };
        siblings.push(process);
    }
    let mut sum = None;
    // Each process has one parent, and is taken away with it: this ends.
    while let Some(process) = left.pop() {
        sum = Some(sum.unwrap_or(0.0) + process.own + process.ended);
        left.extend(children.remove(&process.pid).unwrap_or_default());
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_name_is() {
        let line = "77 (a (b) c) S 5 77 77 0 -1 4194560 9 8 7 6 100 20 3 4 20 0 1 0 999 1 2";
        assert_eq!(parse(line), Some(Process { pid: 77, parent: 5, own: 120.0, ended: 7.0 }));
        assert_eq!((parse("77 (a) S 5"), parse("")), (None, None));
    }

    #[test]
    fn a_tree_is_its_root_and_all_below_with_children_that_have_ended_and_nobody_else() {
        let processes = [(1, 0, 1_000.0), (5, 1, 1.0), (9, 8, 4.0), (8, 5, 2.0), (6, 1, 500.0)]
            .map(|(pid, parent, own)| Process { pid, parent, own, ended: if pid == 8 { 20.0 } else { 0.0 } });
        assert_eq!(tree(processes.into_iter(), 5), Some(27.0));
        assert_eq!(tree(processes.into_iter(), 4), None);
    }

    #[test]
    fn our_own_time_is_there_and_grows() {
        let (before, mut number) = (of_tree(std::process::id()).unwrap(), 1_u64);
        while of_tree(std::process::id()).unwrap() == before {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(ours().unwrap() > 0.0);
    }
}
