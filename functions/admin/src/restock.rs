//! `create`, `add`, `remove`, `open`, `close`, `rules`: requests to the restock function, sent as any other system would.
//!
//! Nothing here touches the database; what is allowed is the restock function's to say, and a request that is sent twice
//! with one id is granted once.

use crate::failure::Failure;
use crate::request::{RequestOptions, id, send};
use clap::{Args, Subcommand};
use shared::messages::{HOLD_MS_DEFAULT, Operation, RestockRequest, Rules, STOCK_MAX, TIME_MS_MAX, Verdict};
use std::collections::BTreeSet;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put a new item on sale.
    Create {
        #[command(flatten)]
        request: ItemOptions,
        /// Units.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..=STOCK_MAX))]
        stock: i64,
        /// How long an order keeps its units, in milliseconds.
        #[arg(long, default_value_t = HOLD_MS_DEFAULT, value_name = "MILLISECONDS", value_parser = clap::value_parser!(i64).range(1..=TIME_MS_MAX))]
        hold_ms: i64,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        rules: RuleOptions,
    },
    /// Put more units of an item on sale.
    Add {
        #[command(flatten)]
        request: ItemOptions,
        /// Units.
        #[arg(value_name = "N", value_parser = clap::value_parser!(i64).range(1..=STOCK_MAX))]
        quantity: i64,
    },
    /// Take units of an item off sale that are neither held nor sold.
    Remove {
        #[command(flatten)]
        request: ItemOptions,
        /// Units.
        #[arg(value_name = "N", value_parser = clap::value_parser!(i64).range(1..=STOCK_MAX))]
        quantity: i64,
    },
    /// Open the sale of an item, now and without end; or with times. Where one is given, the other stays as it is.
    Open {
        #[command(flatten)]
        request: ItemOptions,
        /// The sale begins then, such as 2026-12-01T18:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = time)]
        opens_at: Option<OffsetDateTime>,
        /// The sale ends then.
        #[arg(long, value_name = "TIME", value_parser = time)]
        closes_at: Option<OffsetDateTime>,
    },
    /// Close the sale of an item, now. What is held may still be paid for.
    Close {
        #[command(flatten)]
        request: ItemOptions,
    },
    /// Replace all rules of an item's sale; those that are not named are gone. `item NAME` shows them.
    Rules {
        #[command(flatten)]
        request: ItemOptions,
        #[command(flatten)]
        rules: RuleOptions,
        /// No rules from then on. To be said, so that none is lost by who only wanted to look.
        #[arg(long, required_unless_present_any = RULE_OPTIONS, conflicts_with_all = RULE_OPTIONS)]
        none: bool,
    },
}

#[derive(Debug, Args)]
pub struct ItemOptions {
    /// The item's id.
    #[arg(value_name = "NAME", value_parser = id)]
    item: String,
    #[command(flatten)]
    request: RequestOptions,
}

#[derive(Debug, Args)]
pub struct Window {
    /// The sale begins then, such as 2026-12-01T18:00:00Z; without it, at once.
    #[arg(long, value_name = "TIME", value_parser = time)]
    opens_at: Option<OffsetDateTime>,
    /// The sale ends then; without it, it does not end.
    #[arg(long, value_name = "TIME", value_parser = time)]
    closes_at: Option<OffsetDateTime>,
}

#[derive(Debug, Args)]
pub struct RuleOptions {
    /// Units that one buyer may hold and have paid for, in all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=STOCK_MAX))]
    max_per_buyer: Option<i64>,
    /// No second purchase by the same buyer within this time.
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(i64).range(1..=TIME_MS_MAX))]
    cooldown_ms: Option<i64>,
    /// Only buyers of one of these tiers, with commas between them.
    #[arg(long, value_name = "TIER,…", value_delimiter = ',', value_parser = id)]
    tiers: Vec<String>,
}

/// The names of [`RuleOptions`].
const RULE_OPTIONS: [&str; 3] = ["max_per_buyer", "cooldown_ms", "tiers"];

pub(crate) async fn run(command: Command) -> Result<Verdict, Failure> {
    let (request, operation) = match command {
        Command::Create { request, stock, hold_ms, window: Window { opens_at, closes_at }, rules } => {
            (request, Operation::Create { stock, hold_ms, opens_at, closes_at, rules: rules.read() })
        }
        Command::Add { request, quantity } => (request, Operation::Add { quantity }),
        Command::Remove { request, quantity } => (request, Operation::Remove { quantity }),
        Command::Open { request, opens_at, closes_at } => (request, Operation::Open { opens_at, closes_at }),
        Command::Close { request } => (request, Operation::Close),
        Command::Rules { request, rules, none: _ } => (request, Operation::Rules { rules: rules.read() }),
    };
    let ItemOptions { item, request } = request;
    send(request, |request_id| RestockRequest { request_id, item, operation }).await
}

impl RuleOptions {
    fn read(self) -> Rules {
        let tiers = (!self.tiers.is_empty()).then(|| BTreeSet::from_iter(self.tiers));
        Rules { max_per_buyer: self.max_per_buyer, cooldown_ms: self.cooldown_ms, tiers }
    }
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339);
    let time = time.map_err(|_| "a time is written as RFC 3339 has it, such as 2026-12-01T18:00:00Z".to_owned())?;
    time.checked_to_offset(UtcOffset::UTC).ok_or_else(|| "the time is too far away".to_owned())
}
