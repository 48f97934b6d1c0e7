//! Which messages are meant. Pure.

use shared::amqp::DeadMessage;

/// The hex digits of a message's id.
const ID_DIGITS: usize = 12;

/// Which messages are meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Selection<'a> {
    /// These.
    Ids(&'a [String]),
    /// Those that are there for this reason.
    Reason(&'a str),
    /// All that were taken.
    All,
}

/// The messages that are meant.
pub(super) fn select<'a>(letters: &'a [DeadMessage], selection: Selection<'_>) -> Vec<&'a DeadMessage> {
    let is_meant = |letter: &&DeadMessage| match selection {
        Selection::Ids(ids) => ids.contains(&letter.id),
        Selection::Reason(reason) => letter.reason == reason,
        Selection::All => true,
    };
    letters.iter().filter(is_meant).collect()
}

/// Reads an id of the command line.
pub(super) fn id(text: &str) -> Result<String, String> {
    let id = text.to_ascii_lowercase();
    if id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(id);
    }
    Err(format!("a message's id has {ID_DIGITS} hex digits; `admin dead list` tells it"))
}

/// Says that there are more, where there are.
pub(super) fn behind_text(behind: u32) -> String {
    if behind == 0 {
        return String::new();
    }
    format!("\nNot looked at: {behind} behind these; --look-max N goes further.\n")
}
