//! A sale after its end: what was told, held against what was recorded.

use std::sync::Arc;

use shared::messages::Verdict;

use super::{database_failed, open_database, outcome};
use crate::auditor::{Audit, Facts, LifeFacts};
use crate::facts;
use crate::failure::Failure;
use crate::life;
use crate::life::living::Lived;
use crate::life::report::LifeReport;
use crate::life::show::Winner;
use crate::outcome::{Outcome, ScenarioReport, ServersReport};
use crate::round::Tally;
use crate::scenario::Schedule;

/// A sale that is over: nobody buys or decides any more, and nobody has looked at what was recorded.
pub struct Drained {
    pub(super) tally: Tally,
    pub(super) lived: Option<Lived>,
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
        let recorded = facts::read(&database, &self.schedule).await.map_err(database_failed)?;
        let recorded_life = match &self.lived {
            Some(_) => Some(life::facts::read(&database, &self.schedule).await.map_err(database_failed)?),
            None => None,
        };
        database.close().await;
        let life = (|| {
            let (lived, recorded) = (self.lived.as_ref()?, recorded_life.as_ref()?);
            let follow_ups = tally.follow_ups.as_ref()?;
            let (ledger, events, is_over) = (&lived.ledger, &lived.events, lived.plan.hold.is_some());
            Some(LifeFacts { follow_ups, ledger, events, recorded, is_over })
        })();
        let audit = Audit::of(&Facts {
            schedule: &self.schedule,
            answers: &tally.answers,
            dead_growth: tally.dead_growth,
            endings: &tally.endings,
            recorded: Some(&recorded),
            life,
        });
        let report = self.lived.as_ref().zip(tally.follow_ups.as_ref());
        let life = report.map(|(lived, follow_ups)| LifeReport::of(lived, follow_ups, &recorded));
        let outcome = outcome(self.report, self.servers, audit, tally);
        Ok(Outcome { attempts: recorded.attempts(), conflicts: recorded.conflicts(), life, ..outcome })
    }
}
