//! The machine that a result was measured on: figures without it say little.
//!
//! Whatever the system does not tell is `null`. Nothing in it names the machine, its owner or its address, so that a result
//! can be shown to anyone.

use serde::Serialize;
use std::collections::BTreeMap;
use std::{fs, thread};

const KIB_PER_MIB: u64 = 1_024;
/// What decides how many TCP connections are let in at once, and how many a client may open.
const SETTINGS: [&str; 7] = [
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_syn_retries",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_tw_reuse",
];

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    pub processor: Option<String>,
    /// How many cores this process may use.
    pub cores: usize,
    pub memory_mib: Option<u64>,
    pub kernel: Option<String>,
    /// Kernel settings by name, as the kernel writes them; those that it does not have are left out.
    pub settings: BTreeMap<&'static str, String>,
}

impl Machine {
    pub fn here() -> Self {
        let text = |path: &str| fs::read_to_string(format!("/proc/{path}")).ok();
        // `net.core.somaxconn` is in `sys/net/core/somaxconn`.
        let setting = |name: &'static str| Some((name, words(&text(&format!("sys/{}", name.replace('.', "/")))?)));
        Self {
            processor: text("cpuinfo").and_then(|cpuinfo| field(&cpuinfo, "model name")),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_mib: text("meminfo").and_then(|meminfo| mebibytes(&field(&meminfo, "MemTotal")?)),
            kernel: text("sys/kernel/osrelease").map(|release| format!("Linux {}", release.trim())),
            settings: SETTINGS.into_iter().filter_map(setting).collect(),
        }
    }
}

/// The first `NAME : VALUE` of lines such as these.
fn field(lines: &str, name: &str) -> Option<String> {
    let values = lines.lines().filter_map(|line| line.split_once(':'));
    values.filter(|(key, _)| key.trim() == name).map(|(_, value)| words(value)).find(|value| !value.is_empty())
}

fn mebibytes(kilobytes: &str) -> Option<u64> {
    Some(kilobytes.strip_suffix(" kB")?.parse::<u64>().ok()? / KIB_PER_MIB)
}

/// Without tabs, line ends and padding.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_kernel_writes_them() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some  CPU @ 2.00GHz\nmodel name\t: Other\n\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(field("MemTotal:        2048000 kB\n", "MemTotal").and_then(|text| mebibytes(&text)), Some(2_000));
        assert_eq!((field(cpuinfo, "model"), mebibytes("12 MB")), (None, None));
    }
}
