//! Everybody who works in a run: the purchase crew, and the crews of other functions beside it.
//!
//! Invariant: who crashes is replaced at once, by one of the same crew.

use anyhow::Context;

use super::{Crew, Endpoints, Workers};
use crate::audit::Ending;
use crate::failure::Failure;

/// All crews of a run.
pub(crate) struct Staff {
    /// Those who decide purchases.
    pub(crate) purchase: Workers,
    /// Those of other functions.
    beside: Vec<Workers>,
}

impl Staff {
    /// Starts the crews, and returns when all of them are ready.
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub(crate) async fn start(purchase: Crew, beside: Vec<Crew>, endpoints: &Endpoints) -> Result<Self, Failure> {
        let mut staff = Self { purchase: Workers::start(purchase, endpoints).await?, beside: Vec::new() };
        for crew in beside {
            staff.beside.push(Workers::start(crew, endpoints).await?);
        }
        Ok(staff)
    }

    /// Kills (SIGKILL) one of all that are at work, chosen by `pick`, and starts another of its crew. Returns the id of the
    /// one that was killed; `None` where nobody is at work.
    ///
    /// # Errors
    /// As [`Workers::kill`] and [`Workers::start_another`].
    pub(crate) async fn crash(&mut self, pick: u64) -> Result<Option<String>, Failure> {
        let mut crews: Vec<&mut Workers> = std::iter::once(&mut self.purchase).chain(&mut self.beside).collect();
        let at_work: Vec<(usize, usize)> = crews
            .iter_mut()
            .enumerate()
            .flat_map(|(crew, workers)| workers.at_work().into_iter().map(move |index| (crew, index)))
            .collect();
        let Some(chosen) = pick.checked_rem(at_work.len() as u64) else { return Ok(None) };
        let chosen = usize::try_from(chosen).context("an index fits").map_err(Failure::Broken)?;
        let (crew, index) = at_work[chosen];
        let workers = &mut crews[crew];
        workers.kill(index).await?;
        workers.start_another().await?;
        Ok(workers.id(index))
    }

    /// Waits until everybody is ready, but for those that were killed.
    ///
    /// # Errors
    /// As [`Workers::all_ready`].
    pub(crate) async fn all_ready(&mut self) -> Result<(), Failure> {
        self.purchase.all_ready().await?;
        for workers in &mut self.beside {
            workers.all_ready().await?;
        }
        Ok(())
    }

    /// Notes everybody's peak memory.
    pub(crate) fn sample_memory(&mut self) {
        self.purchase.sample_memory();
        self.beside.iter_mut().for_each(Workers::sample_memory);
    }

    /// Asks everybody to drain, first those who decide purchases, and says how each ended.
    pub(crate) async fn drain(self) -> Vec<Ending> {
        let mut endings = self.purchase.drain().await;
        for workers in self.beside {
            endings.extend(workers.drain().await);
        }
        endings
    }
}
