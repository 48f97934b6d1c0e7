//! Ways to sell, side by side: each strategy in each form, and the HTTP servers that they replace, beside the ceiling.
//!
//! A `plan` says who is compared, and whose turn it is; a `bench` runs a row once and reads around it what the database
//! counts (`counted`); `figures` makes a row of its repetitions. The result is the `report`'s; a `table` shows it, with
//! `notes` on who was best. Knows nothing of how a purchase is decided. Invariant: every sale is audited, and whatever a
//! repetition broke is in the result.

mod bench;
mod counted;
mod figures;
mod notes;
mod plan;
mod report;
mod table;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::audit::database_state;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::options::CompareOptions;
use crate::outcome::round;
use crate::progress::Progress;
use crate::sale::{database_failed, open_database, redis_version};
use crate::strategy::Strategy;
use crate::summary::figures::plural;
use crate::workers::Endpoints;
use crate::{doors, probe};
use bench::Bench;
use figures::Repetition;
pub(crate) use notes::of as notes;
pub(crate) use plan::rows;
use plan::turns;
pub use report::{AtDoor, ComparedScenario, Comparison, Form, Row, Versions};
pub use table::render;

/// Runs every row that the options ask for, in turns, on servers that nobody else uses meanwhile.
///
/// # Errors
/// A server is away, a program does not start, or the queues are in use.
pub(crate) async fn compare(
    endpoints: &Endpoints,
    options: &CompareOptions,
    program: &Path,
    progress: &Progress,
) -> Result<Comparison, Failure> {
    let contenders = rows(&options.sizes(), &options.forms(), &options.strategies());
    // Said at once, and not after an hour of other rows.
    if let Some(crowd) = contenders.iter().filter(|row| row.form == Form::Http).map(|row| row.buyers).max() {
        doors::processes_for(crowd)?;
    }
    let versions = versions(endpoints, options).await?;
    let bench = Bench::warmed_up(endpoints, (options, program), &contenders, progress).await?;
    let mut repetitions: Vec<Vec<Repetition>> = vec![Vec::new(); contenders.len()];
    let mut broken = Vec::new();
    let turns = turns(contenders.len(), options.repetitions);
    for (turn, (number, index)) in turns.iter().enumerate() {
        let contender = &contenders[*index];
        let name = format!("{}, {}", contender.name(), plural(contender.buyers.into(), "buyer"));
        let what = format!("{} of {}: {name}, repetition {number}", turn + 1, turns.len());
        let repetition = bench.run(contender, &what).await?;
        tracing::info!(what, per_second = repetition.purchases_per_second, "run");
        broken.extend(repetition.broken.iter().map(|broken| format!("{name}, repetition {number}: {broken}")));
        repetitions[*index].push(repetition);
    }
    let pairs = contenders.iter().zip(&repetitions);
    let rows: Vec<Row> = pairs.map(|(contender, all)| figures::row(contender, options.in_flight, all)).collect();
    Ok(Comparison {
        scenario: scenario(options),
        servers: versions,
        machine: Machine::here(),
        rows: with_ratios(rows),
        passed: broken.is_empty(),
        broken,
    })
}

async fn versions(endpoints: &Endpoints, options: &CompareOptions) -> Result<Versions, Failure> {
    let rabbitmq = probe::broker_version(&endpoints.amqp_url).await?;
    let database = open_database(&endpoints.database_url).await?;
    let postgresql = database_state::server_version(&database).await.map_err(database_failed)?;
    database.close().await;
    let strategy = options.needs_redis().then_some(Strategy::Redis);
    Ok(Versions { rabbitmq, postgresql, redis: redis_version(endpoints, strategy).await? })
}

fn scenario(options: &CompareOptions) -> ComparedScenario {
    ComparedScenario {
        buyers: options.sizes(),
        stock: options.stock,
        items: options.items,
        workers: options.workers,
        repetitions: options.repetitions,
        in_flight: options.in_flight,
        payment_ms: options.payment_ms,
        seed: options.seed,
    }
}

/// Each pace by the ceiling's with as many buyers.
fn with_ratios(mut rows: Vec<Row>) -> Vec<Row> {
    let is_ceiling = |row: &&Row| row.form == Form::Ceiling && row.purchases_per_second > 0.0;
    let ceilings = rows.iter().filter(is_ceiling).map(|row| (row.buyers, row.purchases_per_second));
    let ceilings: Vec<(u32, f64)> = ceilings.collect();
    for row in rows.iter_mut().filter(|row| row.form != Form::Ceiling) {
        let ceiling = ceilings.iter().find(|(buyers, _)| *buyers == row.buyers);
        row.ratio = ceiling.map(|(_, per_second)| round(row.purchases_per_second / per_second, 1e4));
    }
    rows
}
