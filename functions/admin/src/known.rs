//! `audit --known`: the orders that others know, by events or by charges, against the tables. After a backup was restored,
//! this is what was lost with it.
//!
//! It keeps some lines in memory, and what is off; never a file. It waits for lines on a thread of its own and in no transaction: a pipe may
//! be as slow as it likes.

use crate::failure::Failure;
use crate::look::{Scan, look_at};
use crate::report::visible;
use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use shared::messages::EventKind;
use shared::order::State;
use sqlx::PgPool;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use uuid::Uuid;

/// How many lines are held against the tables at once.
const LINES_MAX: usize = 1_000;
/// How many times as many lines may wait for the tables.
const CHUNKS_MAX: usize = 1;
/// The longest line. Events have less than a kilobyte.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// Those of $1 that the tables have.
const STATES: &str = "SELECT id, state FROM orders WHERE id = ANY($1)";

/// How far an order had come; what is further is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    Reserved,
    /// Money may have been taken.
    Paying,
    /// Expired, or cancelled.
    Ended,
    /// Money was taken.
    Paid,
}

/// What a line says of an order.
struct Claim {
    id: Uuid,
    known: Known,
    /// The item and how many of it, where the line says so.
    units: Option<(String, String)>,
    /// The file and the line.
    place: String,
}

/// What is off: by order, how far it had come, and what is said of it.
type Off = BTreeMap<Uuid, (Known, String)>;

/// What is said of the orders that the files know and the tables do not, and of those that had come further there.
pub(crate) async fn compare(pool: &PgPool, files: &[PathBuf]) -> Result<[Vec<String>; 2], Failure> {
    let (mut missing, mut behind) = (Off::new(), Off::new());
    let (sender, mut read) = mpsc::channel(CHUNKS_MAX);
    let files = files.to_vec();
    let reading = spawn_blocking(move || files.iter().try_for_each(|path| read_file(path, &sender)));
    while let Some(claims) = read.recv().await {
        let ids: Vec<Uuid> = claims.iter().map(|claim: &Claim| claim.id).collect();
        let states = async |connection: &mut _| sqlx::query_as(STATES).bind(ids).fetch_all(connection).await;
        // Later than the lines, so what they tell of is there, or is lost.
        let states: Vec<(Uuid, String)> = look_at(pool, Scan::ByKey, states).await?;
        let states: HashMap<Uuid, String> = states.into_iter().collect();
        for claim in claims {
            let state = states.get(&claim.id).and_then(|state| State::read(state));
            let Some(text) = claim.off(state) else { continue };
            let off = if state.is_none() { &mut missing } else { &mut behind };
            // What is known at last is said of it.
            if off.get(&claim.id).is_none_or(|(known, _)| *known < claim.known) {
                off.insert(claim.id, (claim.known, text));
            }
        }
    }
    reading.await.expect("reading does not panic").map_err(Failure::Broken)?;
    Ok([missing, behind].map(|off| off.into_values().map(|(_, text)| text).collect()))
}

/// Hands over what the lines of a file claim, some at a time, for as long as somebody takes it.
fn read_file(path: &Path, claims: &mpsc::Sender<Vec<Claim>>) -> anyhow::Result<()> {
    let mut lines = Lines::open(path)?;
    loop {
        let next = lines.next()?;
        if next.is_empty() || claims.blocking_send(next).is_err() {
            return Ok(());
        }
    }
}

impl Claim {
    /// Reads a line; `None`: it is of no order.
    fn read(line: &[u8], place: String) -> anyhow::Result<Option<Self>> {
        let line: Value = serde_json::from_slice(line).map_err(|error| anyhow!("it is not JSON ({error})"))?;
        let (id, known, quantity) = match line["event"].as_str().and_then(EventKind::read) {
            Some(kind) => {
                let Some(known) = known_by(kind) else { return Ok(None) };
                (&line["order"]["id"], known, &line["order"]["quantity"])
            }
            None => (&line["order_id"], Known::Paid, &line["quantity"]),
        };
        let Some(id) = id.as_str().and_then(|id| Uuid::parse_str(id).ok()) else {
            bail!("it is neither an event, as it was published, nor a charge, with the order's UUID as order_id");
        };
        let units = line["item"].as_str().zip(quantity.as_u64());
        let units = units.map(|(item, quantity)| (visible(item), quantity.to_string()));
        Ok(Some(Self { id, known, units, place }))
    }

    /// What is off with an order in this state, or with one that is not there, and what is to be done; `None`: nothing is.
    fn off(&self, state: Option<State>) -> Option<String> {
        use State::{Cancelled, Expired, Paid, Paying, Reserved};
        let Self { id, known, units, place } = self;
        let (item, quantity) = units.as_ref().map_or(("ITEM", "QUANTITY"), |(item, quantity)| (item, quantity));
        let (was, remedy) = match (known, state) {
            (Known::Reserved, None) => ("reserved", "its buyer has paid nothing, and may buy again".to_owned()),
            (Known::Paying, None) => {
                let void = "void or refund this order id at the gateway; only then may its buyer buy again";
                ("being paid", void.to_owned())
            }
            (Known::Ended, None) => ("ended", "nothing is to be done, its units are on sale again".to_owned()),
            (Known::Paid, None) => {
                let take = format!("`admin remove {item} {quantity}` takes its units off sale");
                ("paid", format!("honour it ({take}), or refund it at the gateway"))
            }
            (Known::Ended, Some(Reserved)) => {
                ("ended", "its buyer was told so: cancel it, by a message to the queue `release`".to_owned())
            }
            (Known::Ended, Some(Paying)) => {
                ("ended", format!("its buyer was told so: payment ends it by itself, or `admin void {id}`"))
            }
            (Known::Paid, Some(Reserved)) => {
                let again = "send its payment again before its hold_until, which takes no money twice";
                ("paid", format!("{again}, or refund it at the gateway"))
            }
            (Known::Paid, Some(Paying)) => ("paid", "payment asks the gateway again by itself".to_owned()),
            (Known::Paid, Some(Expired | Cancelled)) => ("paid", "refund it at the gateway".to_owned()),
            (Known::Reserved | Known::Paying, Some(_))
            | (Known::Ended, Some(Paid | Expired | Cancelled))
            | (Known::Paid, Some(Paid)) => return None,
        };
        let of = units.as_ref().map(|(item, quantity)| format!("{quantity} of {item}, ")).unwrap_or_default();
        let is = state.map_or_else(|| "not there".to_owned(), |state| format!("is {}", state.as_str()));
        Some(format!("{id} ({of}{was} by {place}, {is}): {remedy}"))
    }
}

/// `None`: it happened to no order.
fn known_by(kind: EventKind) -> Option<Known> {
    match kind {
        EventKind::OrderReserved | EventKind::OrderDeclined => Some(Known::Reserved),
        EventKind::OrderPaying => Some(Known::Paying),
        EventKind::OrderExpired | EventKind::OrderCancelled => Some(Known::Ended),
        EventKind::OrderPaid => Some(Known::Paid),
        EventKind::ItemCreated
        | EventKind::ItemStockAdded
        | EventKind::ItemStockRemoved
        | EventKind::ItemOpened
        | EventKind::ItemClosed
        | EventKind::ItemRulesChanged => None,
    }
}

/// The lines of a file, some at a time.
struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    number: u64,
}

impl Lines {
    /// Opens the file; `-` is standard input.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let reader: Box<dyn BufRead + Send> = match name.as_str() {
            "-" => Box::new(BufReader::new(stdin())),
            _ => Box::new(BufReader::new(File::open(path).with_context(|| format!("{name} cannot be opened"))?)),
        };
        Ok(Self { name, reader, number: 0 })
    }

    /// What the next lines claim; nothing at the end.
    fn next(&mut self) -> anyhow::Result<Vec<Claim>> {
        let (mut claims, mut line) = (Vec::new(), Vec::new());
        while claims.len() < LINES_MAX {
            line.clear();
            self.number += 1;
            let place = format!("{}:{}", self.name, self.number);
            let read = self.reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.with_context(|| format!("{place} cannot be read"))? == 0 {
                break;
            }
            if !line.trim_ascii().is_empty() {
                claims.extend(Claim::read(&line, place.clone()).with_context(|| place)?);
            }
        }
        Ok(claims)
    }
}
