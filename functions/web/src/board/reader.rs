//! What the board shows, read from broker and database again and again, however many look, and kept for some minutes.

use super::store::{self, Database};
use super::workers::{Counted, Workers};
use crate::store::pause_behind;
use crate::tickets::Tickets;
use serde::Serialize;
use serde_json::{Value, json};
use shared::amqp::{Error, Nodes, Observed, Observer, QueueState};
use shared::messages::{Code, PURCHASE_EXCHANGE, Status};
use shared::topology::Topology;
use sqlx::PgPool;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time;

/// How often it is read, at most; where the database takes long, less often.
const EVERY: Duration = Duration::from_millis(500);
/// Nobody is waited for longer than this: the other one is shown meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Of the last five minutes.
pub(super) const SAMPLES_MAX: usize = 600;
/// What these hold is shown one by one.
const DEAD_QUEUES: [&str; 2] = ["dead", "dead.invalid"];
/// In it is what the relay remembers.
const MARK_QUEUE: &str = "events.mark";

/// What the charts show of one moment. Of verdicts, how many a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Sample {
    at_ms: u64,
    reserved: f64,
    sold_out: f64,
    refused: f64,
    waiting: u64,
    /// Asked at this door, and not decided.
    under_way: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Arc<Mutex<VecDeque<Sample>>>);

impl Samples {
    fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(sample);
        if samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }

    pub(super) fn json(&self) -> String {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_string(&*samples).expect("samples are representable as JSON")
    }
}

pub(super) struct Reader {
    pool: PgPool,
    broker: Broker,
    tickets: Arc<Tickets>,
    seen: Seen,
    samples: Samples,
    /// Who has it has dead letters in hand, which are counted by nobody meanwhile.
    dead_in_hand: Arc<AsyncMutex<()>>,
    /// What the page is told with each state, whatever it is.
    shown: Value,
}

/// What was read last.
#[derive(Default)]
struct Seen {
    queues: Vec<Queue>,
    database: Database,
    /// For people: who does not answer, and why.
    faults: Vec<String>,
}

#[derive(Serialize)]
struct Queue {
    queue: String,
    exists: bool,
    waiting: u32,
    consumers: u32,
    /// `null`: it is no partition.
    active: Option<Vec<String>>,
}

impl Reader {
    pub(super) fn new(
        pool: PgPool,
        broker: Broker,
        tickets: Arc<Tickets>,
        samples: Samples,
        dead_in_hand: Arc<AsyncMutex<()>>,
        shown: Value,
    ) -> Self {
        Self { pool, broker, tickets, seen: Seen::default(), samples, dead_in_hand, shown }
    }

    /// For ever: `state` is what the page shows, `dead` how many dead letters there are.
    pub(super) async fn run(mut self, state: watch::Sender<Arc<str>>, dead: watch::Sender<u32>) {
        loop {
            let in_place = Arc::clone(&self.dead_in_hand).try_lock_owned();
            let broker = time::timeout(ANSWER_MAX, self.broker.look());
            let database = async {
                let started = Instant::now();
                time::timeout(ANSWER_MAX, store::look(&self.pool)).await.map(|looked| (looked, started.elapsed()))
            };
            let (broker, database) = tokio::join!(broker, database);
            self.seen.faults.clear();
            match broker.unwrap_or_else(|_| Err(Error::Unreachable("no answer in time".to_owned()))) {
                Ok(queues) => self.seen.queues = queues,
                Err(error) => {
                    self.broker.observer = None;
                    self.seen.faults.push(format!("{error}."));
                }
            }
            let mut pause = EVERY;
            match database {
                Ok((Ok(database), took)) => {
                    self.seen.database = database;
                    pause = pause_behind(took, EVERY);
                }
                Ok((Err(error), _)) => self.seen.faults.push(format!("The database cannot be read: {error}.")),
                Err(_) => self.seen.faults.push("The database does not answer.".to_owned()),
            }
            let is_dead = |queue: &&Queue| DEAD_QUEUES.contains(&queue.queue.as_str());
            let dead_count = self.seen.queues.iter().filter(is_dead).map(|queue| queue.waiting).sum();
            if in_place.is_ok() {
                dead.send_if_modified(|count| std::mem::replace(count, dead_count) != dead_count);
            }
            drop(in_place);
            state.send_replace(self.show().into());
            time::sleep(pause).await;
        }
    }

    fn show(&mut self) -> String {
        let (now, Seen { queues, database, faults }) = (Instant::now(), &self.seen);
        let verdicts = self.broker.workers.verdicts(now);
        let pace = |is_meant: fn(Status) -> bool| {
            let of_status = Code::ALL.iter().filter(|(_, status, _)| is_meant(*status));
            let paces = of_status.filter_map(|(.., code)| verdicts.get(*code)).map(|counted| counted.per_second);
            // The sum of nothing is -0.
            paces.sum::<f64>() + 0.0
        };
        let in_line = queues.iter().filter(|queue| queue.active.is_some()).map(|queue| u64::from(queue.waiting)).sum();
        let sample = Sample {
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
            reserved: pace(|status| status == Status::Reserved),
            sold_out: pace(|status| status == Status::SoldOut),
            refused: pace(|status| matches!(status, Status::Refused | Status::Invalid)),
            waiting: in_line,
            under_way: self.tickets.under_way(),
        };
        self.samples.add(sample);
        let by_code = verdicts.iter().map(
            |(code, Counted { total, per_second })| json!({ "code": code, "total": total, "per_second": per_second }),
        );
        let mut shown = self.shown.clone();
        shown["sample"] = json!(sample);
        shown["workers"] = json!(self.broker.workers.count(now));
        shown["verdicts"] = by_code.collect();
        shown["queues"] =
            json!(queues.iter().filter(|queue| !DEAD_QUEUES.contains(&queue.queue.as_str())).collect::<Vec<_>>());
        shown["items"] = json!(database.items);
        shown["outbox"] = json!(database.outbox);
        shown["faults"] = json!(faults);
        shown.to_string()
    }
}

pub(super) struct Broker {
    nodes: Nodes,
    name: String,
    queues: Vec<String>,
    observer: Option<Observer>,
    workers: Workers,
}

impl Broker {
    pub(super) fn new(nodes: Nodes, name: String) -> Self {
        let queues = Topology::read().queues.iter().map(|queue| queue.name.clone());
        let queues = queues.filter(|queue| queue != MARK_QUEUE).collect();
        Self { nodes, name, queues, observer: None, workers: Workers::default() }
    }

    async fn look(&mut self) -> Result<Vec<Queue>, Error> {
        let observer = match &mut self.observer {
            Some(observer) => observer,
            none => none.insert(Observer::open(&self.nodes, &self.name, PURCHASE_EXCHANGE).await?),
        };
        let Observed { states, heard } = observer.look(&self.queues).await?;
        let now = Instant::now();
        heard.into_iter().for_each(|worker| self.workers.heard(worker, now));
        let partitions = Topology::read().queues_of(PURCHASE_EXCHANGE);
        let queue = |(queue, state): (&String, Option<QueueState>)| Queue {
            queue: queue.clone(),
            exists: state.is_some(),
            waiting: state.map_or(0, |state| state.waiting),
            consumers: state.map_or(0, |state| state.consumers),
            active: partitions
                .iter()
                .position(|partition| partition == queue)
                .map(|place| self.workers.active_on(place, now)),
        };
        Ok(self.queues.iter().zip(states).map(queue).collect())
    }
}
