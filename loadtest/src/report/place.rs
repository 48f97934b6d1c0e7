//! Where and how a result was measured: without it, figures say little.

use super::html::Html;
use super::parts::{folded, pairs, section};
use crate::machine::Machine;

/// What is shown of something that the machine does not tell.
const UNKNOWN: &str = "not told";
/// A MiB's part of a GiB.
const GIB_PER_MIB: f64 = 1.0 / 1_024.0;

/// The section: the scenario, then the servers, then the machine, each as names and what they stand for.
pub(super) fn place(
    html: &mut Html,
    scenario: &[(&str, String)],
    servers: [(&'static str, Option<&str>); 3],
    machine: &Machine,
) {
    section(html, "Where and how was it measured?", "", |html| {
        pairs(html, scenario);
        let servers = servers.into_iter().filter_map(|(name, version)| Some((name, version?.to_owned())));
        pairs(html, &servers.collect::<Vec<_>>());
        let told = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        pairs(
            html,
            &[
                ("processor", told(&machine.processor)),
                ("cores", machine.cores.to_string()),
                ("memory", machine.memory_mib.map_or_else(|| UNKNOWN.to_owned(), gibibytes)),
                ("kernel", told(&machine.kernel)),
            ],
        );
        if !machine.settings.is_empty() {
            folded(html, "Kernel settings for TCP connections", |html| {
                let settings = machine.settings.iter().map(|(name, value)| (*name, value.clone()));
                pairs(html, &settings.collect::<Vec<_>>());
            });
        }
    });
}

#[allow(clippy::cast_precision_loss)]
fn gibibytes(mebibytes: u64) -> String {
    format!("{:.1} GiB", mebibytes as f64 * GIB_PER_MIB)
}
