//! `create`, `add`, `remove`, `open`, `close`, `rules`: wishes to the restock function, sent as any other system would.
//!
//! Invariant: nothing here touches the database; what is allowed is the restock function's to say, and a wish that is sent
//! twice with one request id is granted once.

use crate::{
    NAME,
    failure::Failure,
    options::BrokerOptions,
    report::{Report, Shape, Style, visible},
};
use anyhow::{Context, anyhow};
use clap::Args;
use shared::{
    amqp::{self, Nodes, OutgoingRequest, RequestOutcome},
    messages::{
        HOLD_MS_DEFAULT, Operation, RESTOCK_QUEUE, RestockRequest, Rules, STOCK_MAX, Status, TIME_MS_MAX, Verdict,
        is_id,
    },
};
use std::{collections::BTreeSet, time::Duration};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// What every wish takes.
#[derive(Debug, Clone, Args)]
pub struct Wish {
    /// The item's id.
    #[arg(value_name = "NAME", value_parser = id)]
    pub item: String,
    /// The request's id; give the same again to repeat a request whose answer was lost. A new one where absent.
    #[arg(long, value_name = "ID", value_parser = id)]
    pub request_id: Option<String>,
    /// How long to wait for the verdict.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub wait_seconds_max: u64,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerOptions,
}

/// What `create` takes.
#[derive(Debug, Clone, Args)]
pub struct CreateOptions {
    /// The wish.
    #[command(flatten)]
    pub wish: Wish,
    /// Units.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..=STOCK_MAX))]
    pub stock: i64,
    /// How long an order keeps its units, in milliseconds.
    #[arg(long, default_value_t = HOLD_MS_DEFAULT, value_name = "MILLISECONDS", value_parser = clap::value_parser!(i64).range(1..=TIME_MS_MAX))]
    pub hold_ms: i64,
    /// The sale window.
    #[command(flatten)]
    pub window: Window,
    /// The rules.
    #[command(flatten)]
    pub rules: RuleFlags,
}

/// What `add` and `remove` take.
#[derive(Debug, Clone, Args)]
pub struct QuantityOptions {
    /// The wish.
    #[command(flatten)]
    pub wish: Wish,
    /// Units.
    #[arg(value_name = "N", value_parser = clap::value_parser!(i64).range(1..=STOCK_MAX))]
    pub quantity: i64,
}

/// What `open` takes.
#[derive(Debug, Clone, Args)]
pub struct OpenOptions {
    /// The wish.
    #[command(flatten)]
    pub wish: Wish,
    /// The sale window.
    #[command(flatten)]
    pub window: Window,
}

/// What `close` takes.
#[derive(Debug, Clone, Args)]
pub struct CloseOptions {
    /// The wish.
    #[command(flatten)]
    pub wish: Wish,
}

/// What `rules` takes.
#[derive(Debug, Clone, Args)]
pub struct RulesOptions {
    /// The wish.
    #[command(flatten)]
    pub wish: Wish,
    /// The rules: all that there are from then on.
    #[command(flatten)]
    pub rules: RuleFlags,
    /// No rules from then on. To be said, so that none is lost by who only wanted to look.
    #[arg(long, required_unless_present_any = RULE_FLAGS, conflicts_with_all = RULE_FLAGS)]
    pub none: bool,
}

/// The names of [`RuleFlags`].
const RULE_FLAGS: [&str; 3] = ["max_per_buyer", "cooldown_ms", "tiers"];

/// A sale window.
#[derive(Debug, Clone, Copy, Args)]
pub struct Window {
    /// The sale begins then, such as 2026-12-01T18:00:00Z; without it, at once.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub opens_at: Option<OffsetDateTime>,
    /// The sale ends then; without it, it does not end.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub closes_at: Option<OffsetDateTime>,
}

/// Rules of a sale.
#[derive(Debug, Clone, Args)]
pub struct RuleFlags {
    /// Units that one buyer may hold and have paid for, in all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=STOCK_MAX))]
    pub max_per_buyer: Option<i64>,
    /// No second purchase by the same buyer within this time.
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(i64).range(1..=TIME_MS_MAX))]
    pub cooldown_ms: Option<i64>,
    /// Only buyers of one of these tiers, with commas between them.
    #[arg(long, value_name = "TIER,…", value_delimiter = ',', value_parser = id)]
    pub tiers: Vec<String>,
}

/// Puts a new item on sale.
///
/// # Errors
/// Nobody answers; the broker's.
pub async fn create(options: CreateOptions, shape: Shape) -> Result<Report, Failure> {
    let CreateOptions { wish, stock, hold_ms, window: Window { opens_at, closes_at }, rules } = options;
    wish.ask(Operation::Create { stock, hold_ms, opens_at, closes_at, rules: rules.read() }, shape).await
}

/// Puts more units on sale.
///
/// # Errors
/// As [`create`].
pub async fn add(options: QuantityOptions, shape: Shape) -> Result<Report, Failure> {
    options.wish.ask(Operation::Add { quantity: options.quantity }, shape).await
}

/// Takes units off sale.
///
/// # Errors
/// As [`create`].
pub async fn remove(options: QuantityOptions, shape: Shape) -> Result<Report, Failure> {
    options.wish.ask(Operation::Remove { quantity: options.quantity }, shape).await
}

/// Opens a sale.
///
/// # Errors
/// As [`create`].
pub async fn open(options: OpenOptions, shape: Shape) -> Result<Report, Failure> {
    let Window { opens_at, closes_at } = options.window;
    options.wish.ask(Operation::Open { opens_at, closes_at }, shape).await
}

/// Closes a sale.
///
/// # Errors
/// As [`create`].
pub async fn close(options: CloseOptions, shape: Shape) -> Result<Report, Failure> {
    options.wish.ask(Operation::Close, shape).await
}

/// Replaces all rules of a sale.
///
/// # Errors
/// As [`create`].
pub async fn rules(options: RulesOptions, shape: Shape) -> Result<Report, Failure> {
    options.wish.ask(Operation::Rules { rules: options.rules.read() }, shape).await
}

impl Wish {
    /// Sends the wish and waits for the verdict. Not well: it was refused, or is invalid.
    async fn ask(self, operation: Operation, shape: Shape) -> Result<Report, Failure> {
        let request_id = self.request_id.unwrap_or_else(|| format!("admin-{}", Uuid::now_v7()));
        let request = RestockRequest { request_id: request_id.clone(), item: self.item, operation };
        let body = serde_json::to_string(&request).expect("a request is representable as JSON");
        let question = OutgoingRequest { queue: RESTOCK_QUEUE, request_id: &request_id, body: &body };
        let (nodes, time) = (Nodes::read(&self.broker.amqp_url)?, Duration::from_secs(self.wait_seconds_max));
        let verdict = match amqp::ask(&nodes, NAME, question, time).await? {
            RequestOutcome::Verdict(verdict) => verdict,
            RequestOutcome::NotYet => {
                return Err(Failure::Unreachable(anyhow!(
                    "nobody answered within {} s; the request is in the queue {RESTOCK_QUEUE} and will be decided once a \
                     restock function runs and has come to it. Ask again with --request-id {request_id} for its verdict; it is granted once",
                    self.wait_seconds_max
                )));
            }
            RequestOutcome::NoQueue => {
                return Err(Failure::Unreachable(anyhow!(
                    "there is no queue {RESTOCK_QUEUE}, so nothing was sent; start a restock function, which declares it"
                )));
            }
        };
        let verdict: Verdict = serde_json::from_slice(&verdict)
            .with_context(|| format!("the verdict on {request_id} is none that this program knows"))
            .map_err(Failure::Broken)?;
        let is_well = match verdict.status {
            Status::Done => true,
            Status::Reserved | Status::SoldOut | Status::Refused | Status::Invalid => false,
        };
        Ok(Report::judged(shape, is_well, &verdict, |style| text(&verdict, is_well, style)))
    }
}

impl RuleFlags {
    fn read(&self) -> Rules {
        let tiers: BTreeSet<String> = self.tiers.iter().cloned().collect();
        let tiers = (!tiers.is_empty()).then_some(tiers);
        Rules { max_per_buyer: self.max_per_buyer, cooldown_ms: self.cooldown_ms, tiers }
    }
}

fn text(verdict: &Verdict, is_well: bool, style: Style) -> String {
    let code = verdict.code.as_str();
    let code = if is_well { style.good(code) } else { style.bad(code) };
    let request_id = verdict.request_id.as_deref().unwrap_or("–");
    format!("{code}: {}\nRequest {request_id}.\n", visible(&verdict.message))
}

fn id(text: &str) -> Result<String, String> {
    if is_id(text) { Ok(text.to_owned()) } else { Err("an id matches [A-Za-z0-9._:-]{1,128}".to_owned()) }
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339);
    let time = time.map_err(|_| "a time is written as RFC 3339 has it, such as 2026-12-01T18:00:00Z".to_owned())?;
    time.checked_to_offset(UtcOffset::UTC).ok_or_else(|| "the time is too far away".to_owned())
}
