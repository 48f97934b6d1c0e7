//! CPU time of processes and of all that they started, as Linux accounts for it.
//!
//! Nothing is lost when a child ends between two readings: its time is then its parent's, as time of a child that was
//! waited for. (A child that its parent never waits for would be; neither server has such children.)

use std::collections::HashMap;
use std::time::Duration;

/// A tick of the times in `/proc/PID/stat` (1 / `USER_HZ`): the same on every architecture that Rust runs on under Linux.
const TICK: Duration = Duration::from_millis(10);
/// How often the processes are read until none of them ended meanwhile.
const READINGS_MAX: u32 = 20;
/// Fields of `/proc/PID/stat` after the name, counted from zero.
const PARENT: usize = 1;
/// User, system, and the same of children that have ended and were waited for.
const TIMES: std::ops::RangeInclusive<usize> = 11..=14;

/// What one process says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    own_ticks: u64,
    /// Of its children that have ended and were waited for.
    ended_ticks: u64,
}

/// The CPU time of the process and of everything below it, since they started; `None` where it does not run on this
/// machine, or the machine has no `/proc`.
///
/// The processes are read one after the other. A child that ends in between would be missed, by itself and with its parent;
/// the parent has waited for it then, so all are read again.
pub(super) fn of_tree(root: u32) -> Option<Duration> {
    let mut ended_before = read(root)?.ended_ticks;
    for _ in 0..READINGS_MAX {
        let sum = tree_ticks(&processes(), root)?;
        let ended = read(root)?.ended_ticks;
        if ended == ended_before {
            return Some(ticks(sum));
        }
        ended_before = ended;
    }
    None
}

/// The CPU time of the process alone; `None` as for [`of_tree`].
pub(super) fn of_process(pid: u32) -> Option<Duration> {
    Some(ticks(read(pid)?.own_ticks))
}

fn read(pid: u32) -> Option<Process> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn ticks(count: u64) -> Duration {
    TICK * u32::try_from(count).unwrap_or(u32::MAX)
}

/// Every process there is; one that ends while we look is left out.
fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    let numbered = |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    entries.flatten().filter(numbered).filter_map(stat).filter_map(|stat| parse(&stat)).collect()
}

/// Reads `PID (NAME) STATE PARENT …`; the name may hold spaces and brackets.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let fields: Vec<&str> = rest.rsplit_once(") ")?.1.split(' ').collect();
    let times: Vec<u64> = fields.get(TIMES)?.iter().filter_map(|field| field.parse().ok()).collect();
    let [user, system, children_user, children_system] = times[..] else { return None };
    Some(Process {
        pid: pid.parse().ok()?,
        parent: fields.get(PARENT)?.parse().ok()?,
        own_ticks: user + system,
        ended_ticks: children_user + children_system,
    })
}

fn tree_ticks(processes: &[Process], root: u32) -> Option<u64> {
    let mut children: HashMap<u32, Vec<Process>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(*process);
    }
    let mut left = vec![*processes.iter().find(|process| process.pid == root)?];
    let mut sum = 0;
    // Each process has one parent, and is taken away with it: this ends.
    while let Some(process) = left.pop() {
        sum += process.own_ticks + process.ended_ticks;
        left.extend(children.remove(&process.pid).unwrap_or_default());
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, own_ticks: u64) -> Process {
        Process { pid, parent, own_ticks, ended_ticks: 0 }
    }

    #[test]
    fn a_line_of_proc_is_read_whatever_the_name_is() {
        let line = "77 (a (b) c) S 5 77 77 0 -1 4194560 9 8 7 6 100 20 3 4 20 0 1 0 999 1 2";
        assert_eq!(parse(line), Some(Process { pid: 77, parent: 5, own_ticks: 120, ended_ticks: 7 }));
        assert_eq!((parse("77 (a) S 5"), parse("")), (None, None));
    }

    #[test]
    fn a_tree_is_its_root_and_all_below_and_nobody_else() {
        let processes =
            [process(1, 0, 1_000), process(5, 1, 1), process(9, 8, 4), process(8, 5, 2), process(6, 1, 500)];
        assert_eq!(tree_ticks(&processes, 5), Some(7));
        assert_eq!(tree_ticks(&processes, 4), None);
    }

    #[test]
    fn a_child_that_has_ended_goes_on_counting_with_its_parent() {
        let before = [process(5, 1, 1), process(8, 5, 20)];
        let after = [Process { ended_ticks: 20 + 3, ..process(5, 1, 1) }];
        assert_eq!((tree_ticks(&before, 5), tree_ticks(&after, 5)), (Some(21), Some(24)));
    }

    #[test]
    fn our_own_time_is_there_and_grows() {
        let pid = std::process::id();
        let before = of_process(pid).unwrap();
        let mut number = 1_u64;
        while of_process(pid).unwrap() == before {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(of_tree(pid).unwrap() > before);
    }
}
