//! A sale after its end: what was told, held against what was recorded.

use std::sync::Arc;

use shared::messages::Verdict;

use super::{database_failed, open_database, outcome};
use crate::audit::database_state;
use crate::audit::{Audit, Evidence, OrdersEvidence};
use crate::failure::Failure;
use crate::orders::FinishedOrders;
use crate::orders::demo::Winner;
use crate::orders::report::OrdersReport;
use crate::outcome::{Outcome, ScenarioReport, ServersReport};
use crate::round::Tally;
use crate::scenario::Schedule;

/// A sale that is over: nobody buys or decides any more, and nobody has looked at what was recorded.
pub struct Drained {
    pub(super) tally: Tally,
    pub(super) orders: Option<FinishedOrders>,
    pub(super) schedule: Arc<Schedule>,
    pub(super) database_url: String,
    pub(super) report: ScenarioReport,
    pub(super) servers: ServersReport,
}

impl Drained {
    /// The first buyer who was told `reserved`, and the order.
    #[must_use]
    pub fn winner(&self) -> Option<Winner> {
        let bodies = self.tally.answers.answers.iter().map(|answer| answer.body.as_deref());
        bodies.enumerate().find_map(|(index, body)| {
            let verdict: Verdict = serde_json::from_slice(body?).ok()?;
            Some(Winner { buyer: Schedule::buyer(index), order: verdict.order? })
        })
    }

    /// Holds what was recorded against what the buyers were told.
    ///
    /// # Errors
    /// The database stays away.
    pub async fn audit(self) -> Result<Outcome, Failure> {
        let tally = self.tally;
        let database = open_database(&self.database_url).await?;
        let state = database_state::read(&database, &self.schedule).await.map_err(database_failed)?;
        let history = match &self.orders {
            Some(_) => Some(database_state::read_history(&database, &self.schedule).await.map_err(database_failed)?),
            None => None,
        };
        database.close().await;
        let orders = self.orders.as_ref().zip(tally.follow_ups.as_ref());
        let evidence = orders.zip(history.as_ref()).map(|((orders, follow_ups), history)| OrdersEvidence {
            follow_ups,
            ledger: &orders.ledger,
            events: &orders.events,
            history,
            is_over: orders.plan.hold.is_some(),
        });
        let audit = Audit::of(&Evidence {
            schedule: &self.schedule,
            answers: &tally.answers,
            dead_growth: tally.dead_growth,
            endings: &tally.endings,
            database: Some(&state),
            orders: evidence,
        });
        let life = orders.map(|(orders, follow_ups)| OrdersReport::of(orders, follow_ups, &state));
        let outcome = outcome(self.report, self.servers, audit, tally);
        Ok(Outcome { attempts: state.attempts(), conflicts: state.conflicts(), life, ..outcome })
    }
}
