//! The account of the rows that requests wait for: since when, when a row that fails is tried again, and what the log says.

use super::{
    Row,
    locks::{Locks, blockers},
};
use crate::{
    db::answered,
    retry::{RetryPolicy, Waits},
};
use sqlx::PgPool;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use uuid::Uuid;

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
    rows: Arc<Mutex<HashMap<String, Wait>>>,
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
        self.rows().is_empty()
    }

    /// Those whose row may be tried now, and whether it has failed before.
    pub(super) fn due<'a>(&self, rows: impl Iterator<Item = (usize, Row<'a>)>) -> Vec<(usize, Row<'a>, bool)> {
        let (now, mut waiting) = (Instant::now(), self.rows());
        waiting.retain(|_, wait| wait.seen.elapsed() < FORGET_AFTER);
        let due = |(place, row): (usize, Row<'a>)| match waiting.get_mut(&row.to_string()) {
            Some(wait) => {
                wait.seen = now;
                wait.due.is_none_or(|due| due <= now).then_some((place, row, wait.due.is_some()))
            }
            None => Some((place, row, false)),
        };
        rows.filter_map(due).collect()
    }

    /// Of these rows, it is known which ones are locked, and the others are not.
    pub(super) fn locked<'a>(&self, locks: &Locks, rows: impl Iterator<Item = Row<'a>>) {
        let (mut free, mut known) = (Vec::new(), HashSet::new());
        for row in rows {
            match locks.of(row) {
                Some(row) if known.insert(row.to_string()) => self.wait(row, None),
                Some(_) => (),
                None => free.extend(locks.needed(row).map(|row| row.to_string())),
            }
        }
        let is_locked = |row: &String| self.rows().get(row).is_some_and(|wait| wait.due.is_none());
        free.iter().filter(|row| is_locked(row)).for_each(|row| self.forget(row));
    }

    /// An attempt at this row alone has failed, after so long.
    pub(super) fn failed(&self, row: Row<'_>, reason: &str, took: Duration) {
        self.wait(row, Some((reason, took)));
    }

    /// An attempt at this row has come to an end.
    pub(super) fn end(&self, row: Row<'_>) {
        self.forget(&row.to_string());
    }

    fn wait(&self, row: Row<'_>, failure: Option<(&str, Duration)>) {
        let (now, mut rows) = (Instant::now(), self.rows());
        let new = || Wait { since: now, seen: now, due: None, waits: ATTEMPTS.waits(), is_logged: false };
        let wait = rows.entry(row.to_string()).or_insert_with(new);
        wait.seen = now;
        wait.due = failure.map(|(_, took)| now + wait.waits.next().unwrap_or_default().max(took * PAUSE_FACTOR));
        if wait.since.elapsed() >= LOG_AFTER && !std::mem::replace(&mut wait.is_logged, true) {
            match failure {
                Some((reason, _)) => {
                    tracing::error!(%row, reason, "its requests are held, and tried again; all others go on");
                }
                None => self.log_lock(row),
            }
        }
    }

    fn forget(&self, row: &str) {
        if let Some(wait) = self.rows().remove(row).filter(|wait| wait.is_logged) {
            tracing::info!(row, waited_ms = wait.since.elapsed().as_millis(), "its requests are decided again");
        }
    }

    /// Beside whoever decides, who does not wait for it.
    fn log_lock(&self, row: Row<'_>) {
        let (pool, name) = (self.pool.clone(), row.to_string());
        let (item, order): (String, Option<Uuid>) = match row {
            Row::Item(item) => (item.to_owned(), None),
            Row::Order(order) => (String::new(), Some(order)),
        };
        tokio::spawn(async move {
            let row = order.map_or(Row::Item(&item), Row::Order);
            let blocked_by = answered(blockers(&pool, row)).await.unwrap_or_else(|error| error.to_string());
            tracing::warn!(
                row = name,
                blocked_by,
                "it is locked; its requests are held until it is not; all others go on"
            );
        });
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<String, Wait>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
