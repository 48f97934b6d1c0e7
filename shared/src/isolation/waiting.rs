//! The account of the rows that requests wait for: since when, when a row that fails is tried again, and what the log says.

use super::Row;
use super::locks::{Locks, blockers};
use crate::db::answered;
use crate::retry::{RetryPolicy, Waits};
use sqlx::PgPool;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two attempts at a row that fails, besides [`PAUSE_FACTOR`].
const ATTEMPTS: RetryPolicy = RetryPolicy { wait_ms: 100, factor: 2.0, wait_ms_max: 2_000, attempts_max: u32::MAX };
/// The pause after a failed attempt, in units of the time that it took: a row that fails slowly has a tenth of the time.
const PAUSE_FACTOR: u32 = 9;
/// What is over sooner is not worth a line in the log.
const LOG_AFTER: Duration = Duration::from_secs(1);
/// A row that nobody has asked for since then is forgotten: its requests have gone to another worker.
const FORGET_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pool: PgPool,
    rows: Arc<Mutex<HashMap<Row, Wait>>>,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    seen: Instant,
    /// When a row that fails is tried again; `None`: it is locked, and looked at each time.
    due: Option<Instant>,
    waits: Waits,
    is_logged: bool,
}

impl Waiting {
    pub(super) fn new(pool: &PgPool) -> Self {
        Self { pool: pool.clone(), rows: Arc::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        let mut rows = self.rows();
        rows.retain(|_, wait| wait.seen.elapsed() < FORGET_AFTER);
        rows.is_empty()
    }

    /// Whether the row may be looked at, and tried, now.
    pub(super) fn is_due(&self, row: &Row) -> bool {
        let now = Instant::now();
        self.rows().get_mut(row).is_none_or(|wait| {
            wait.seen = now;
            wait.due.is_none_or(|due| due <= now)
        })
    }

    pub(super) fn has_failed(&self, row: &Row) -> bool {
        self.rows().get(row).is_some_and(|wait| wait.due.is_some())
    }

    /// Of these rows, it is known which ones are locked, and the others are not.
    pub(super) fn locked<'a>(&self, locks: &Locks, rows: impl Iterator<Item = &'a Row>) {
        for row in rows {
            match locks.of(row) {
                Some(row) => self.wait(row, None),
                None => locks.needed(row).filter(|row| !self.has_failed(row)).for_each(|row| self.end(row)),
            }
        }
    }

    /// An attempt at this row alone has failed, after so long.
    pub(super) fn failed(&self, row: &Row, reason: &str, took: Duration) {
        self.wait(row, Some((reason, took)));
    }

    /// Nobody waits for this row any more.
    pub(super) fn end(&self, row: &Row) {
        if let Some(wait) = self.rows().remove(row).filter(|wait| wait.is_logged) {
            tracing::info!(%row, waited_ms = wait.since.elapsed().as_millis(), "its requests are decided again");
        }
    }

    fn wait(&self, row: &Row, failure: Option<(&str, Duration)>) {
        let (now, mut rows) = (Instant::now(), self.rows());
        let new = || Wait { since: now, seen: now, due: None, waits: ATTEMPTS.waits(), is_logged: false };
        let wait = rows.entry(row.clone()).or_insert_with(new);
        wait.seen = now;
        wait.due = failure.map(|(_, took)| now + wait.waits.next().unwrap_or_default().max(took * PAUSE_FACTOR));
        if wait.since.elapsed() >= LOG_AFTER && !std::mem::replace(&mut wait.is_logged, true) {
            match failure {
                Some((reason, _)) => {
                    tracing::error!(%row, reason, "its requests are held, and tried again; all others go on");
                }
                None => self.log_lock(row.clone()),
            }
        }
    }

    /// Beside whoever decides, who does not wait for it.
    fn log_lock(&self, row: Row) {
        let pool = self.pool.clone();
        tokio::spawn(async move {
            let blocked_by = answered(blockers(&pool, &row)).await.unwrap_or_else(|error| error.to_string());
            tracing::warn!(%row, blocked_by, "it is locked; its requests are held until it is not; all others go on");
        });
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<Row, Wait>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
