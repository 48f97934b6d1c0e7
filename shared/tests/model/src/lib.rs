//! Workers, database and faults around the broker's queues, one atomic step at a time.
//!
//! What a step leaves out, an order of steps has: a slow network is a delivery that comes late, a frozen worker is one whose
//! next step comes late, and a process that dies while its statement runs is one that dies right after it.

mod broker;
mod steps;

use broker::{Message, Queue, Worker};
use stateright::{Model, Property, Representative};

/// What one run of the checker is about. Message `i` is published before message `i + 1`.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub workers: usize,
    /// The most messages under way from a partition to a worker.
    pub window: usize,
    pub messages: Vec<Published>,
    /// Units of each item. Each partition has one item.
    pub stock: u8,
    /// Processes and connections that end, and consumers that the broker cancels.
    pub faults: u8,
    /// Hand-overs, drains, and units that other functions add and remove.
    pub moves: u8,
    /// What was delivered this often before, and once more for each worker, and comes alone, is put into `dead`.
    pub delivery_limit: u8,
    pub bug: Option<Bug>,
}

#[derive(Debug, Clone, Copy)]
pub struct Published {
    pub partition: usize,
    pub request: usize,
    /// It ends the process that takes it in hand.
    pub is_poison: bool,
}

/// What could have been built instead, and breaks a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A decision is written whatever the item has become since it was read.
    NoVersionCheck,
    /// A verdict is written beside one that is there already.
    NoRequestIdCheck,
    /// A message is acknowledged before its reply is confirmed.
    AcknowledgedBeforeConfirm,
    /// A drain cancels its consumers and closes, instead of cutting the connection.
    OrderlyClose,
    /// A partition is handed over before a whole window is decided.
    HandedOverEarly,
    /// RabbitMQ 4.3 without our consumer time-out: it cancels the consumer, takes back what is oldest, and leaves the channel
    /// with the rest open.
    ShortConsumerTimeout,
    /// A suspect is consumed like any message, and what came too often is put into `dead` from among others.
    NoCare,
    /// What came too often is what would be too often with one worker, however many there are.
    LimitOfOneWorker,
    /// Whoever becomes active gets one message alone at first, not only where a suspect was seen: what the next one holds when
    /// it dies comes back behind the rest of what the one before it held.
    CareOfAll,
}

/// A message delivered this often before is a suspect.
const SUSPECT_AT_DELIVERIES: u8 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    pub queues: Vec<Queue>,
    pub workers: Vec<Process>,
    pub items: Vec<Item>,
    /// By request.
    pub verdicts: Vec<Option<Verdict>>,
    /// By message.
    pub fates: Vec<Fate>,
    faults: u8,
    moves: u8,
    /// A request got a second verdict.
    pub is_twice: bool,
    /// A request was sent away while there were units.
    pub is_false_sold_out: bool,
    /// A request was decided before one that was published earlier for the same item.
    pub is_inverted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item {
    pub available: i8,
    version: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    Reserved,
    SoldOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Fate {
    /// Counted where there is poison.
    deliveries: u8,
    pub is_answered: bool,
    pub is_acknowledged: bool,
    pub is_dead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
enum Link {
    #[default]
    None,
    Open,
    /// The broker has ended it, and the worker does not know.
    Lost,
    /// The worker has said that it leaves (only with [`Bug::OrderlyClose`]).
    Closing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Process {
    link: Link,
    /// Delivered, and not taken in hand, by partition.
    delivered: Vec<Vec<Message>>,
    deciding: Vec<Decision>,
    settling: Vec<Batch>,
    handing_over: Option<Handing>,
    /// One message at a time from each partition.
    is_careful: bool,
}

/// What was read, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Decision {
    message: Message,
    version: u8,
    /// `None`: there is a verdict already, which is repeated.
    verdict: Option<Verdict>,
    is_committed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Batch {
    messages: Vec<Message>,
    is_published: bool,
    is_acknowledged: bool,
}

/// A partition that is being handed over: answered and not acknowledged, until a whole window is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Handing {
    partition: usize,
    held: Vec<Message>,
    is_cancelled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Subscribe(Worker),
    /// Takes in hand what has arrived, so many from each partition: reads, and decides.
    Take(Worker, Vec<usize>),
    /// The next commit of what is decided: of one item.
    Commit(Worker, usize),
    Publish(Worker),
    Acknowledge(Worker),
    NoticeLoss(Worker),
    HoldPartition(Worker, usize),
    CancelHeld(Worker),
    ReleaseHeld(Worker),
    Drain(Worker),
    Close(Worker),
    /// Another function adds a unit to an item.
    AddUnit(usize),
    /// Another function removes a unit that nobody has.
    RemoveUnit(usize),
    // Faults.
    Kill(Worker),
    LoseConnection(Worker),
    /// The broker cancels the active consumer of a partition and takes back so many of its messages.
    CancelConsumer(usize, usize),
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let partitions = 1 + self.messages.iter().map(|it| it.partition).max().unwrap_or(0);
        let requests = 1 + self.messages.iter().map(|it| it.request).max().unwrap_or(0);
        let ready = |partition| (0..self.messages.len()).filter(move |it| self.messages[*it].partition == partition);
        vec![State {
            queues: (0..partitions).map(|it| Queue { ready: ready(it).collect(), ..Queue::default() }).collect(),
            workers: vec![self.new_process(partitions, false); self.workers],
            items: vec![Item { available: self.stock.cast_signed(), version: 0 }; partitions],
            verdicts: vec![None; requests],
            fates: vec![Fate::default(); self.messages.len()],
            faults: self.faults,
            moves: self.moves,
            is_twice: false,
            is_false_sold_out: false,
            is_inverted: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (partition, queue) in state.queues.iter().enumerate() {
            if let Some(active) = queue.active().filter(|_| state.faults > 0) {
                let all = queue.unsettled_of(active).count();
                let counts = if self.bug == Some(Bug::ShortConsumerTimeout) { 1..=all } else { all.max(1)..=all };
                actions.extend(counts.map(|count| Action::CancelConsumer(partition, count)));
            }
        }
        for (item, Item { available, .. }) in state.items.iter().enumerate().filter(|_| state.moves > 0) {
            actions.push(Action::AddUnit(item));
            actions.extend((*available > 0).then_some(Action::RemoveUnit(item)));
        }
        for (worker, process) in state.workers.iter().enumerate() {
            self.actions_of(state, worker, process, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action);
        for (partition, queue) in state.queues.iter_mut().enumerate() {
            if let Some(active) = queue.active() {
                let process = &mut state.workers[active];
                let window = self.window_of(process);
                process.delivered[partition].append(&mut queue.fill_window(window));
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one verdict for a request", |_, state: &State| !state.is_twice),
            Property::always("never oversold", |_, state: &State| state.items.iter().all(|item| item.available >= 0)),
            Property::always("no false `sold_out`", |_, state: &State| !state.is_false_sold_out),
            // Not promised of messages that are consumed with care.
            Property::always("first come, first served", |model: &Self, state: &State| {
                model.has_poison() || !state.is_inverted
            }),
            Property::always("nothing is lost", |_, state: &State| {
                state.fates.iter().all(|fate| fate.is_answered || !fate.is_acknowledged)
            }),
            Property::always("no innocent in `dead`", |model: &Self, state: &State| {
                let is_guilty = |(fate, message): (&Fate, &Published)| !fate.is_dead || message.is_poison;
                state.fates.iter().zip(&model.messages).all(is_guilty)
            }),
            Property::always("everything is answered at last", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || state.fates.iter().all(|fate| fate.is_answered || fate.is_dead)
            }),
            // What would be missed by a model in which nothing happens.
            Property::sometimes("a decision meets a newer version", |model: &Self, state: &State| {
                let stale = |it: &Decision| !it.is_committed && it.version != model.item(state, it.message).version;
                state.workers.iter().flat_map(|process| &process.deciding).any(stale)
            }),
        ]
    }
}

impl Representative for State {
    /// Workers are all alike, so of the states that differ in their numbers alone one is enough.
    fn representative(&self) -> Self {
        let mut order: Vec<Worker> = (0..self.workers.len()).collect();
        order.sort_by_key(|worker| {
            let of_queue = |queue: &Queue| (queue.place_of(*worker), queue.unsettled_of(*worker).collect::<Vec<_>>());
            (self.queues.iter().map(of_queue).collect::<Vec<_>>(), &self.workers[*worker])
        });
        let mut state = self.clone();
        state.workers = order.iter().map(|worker| self.workers[*worker].clone()).collect();
        let number = |worker: Worker| order.iter().position(|other| *other == worker).expect("each has a number");
        state.queues.iter_mut().for_each(|queue| queue.renumber(number));
        state
    }
}

impl Protocol {
    pub fn has_poison(&self) -> bool {
        self.messages.iter().any(|message| message.is_poison)
    }

    pub(crate) fn new_process(&self, partitions: usize, has_seen_suspect: bool) -> Process {
        let is_careful = has_seen_suspect || self.bug == Some(Bug::CareOfAll);
        Process { delivered: vec![Vec::new(); partitions], is_careful, ..Process::default() }
    }

    fn window_of(&self, process: &Process) -> usize {
        if process.is_careful { 1 } else { self.window }
    }

    fn item<'a>(&self, state: &'a State, message: Message) -> &'a Item {
        &state.items[self.messages[message].partition]
    }

    pub(crate) fn is_at_limit(&self, state: &State, message: Message) -> bool {
        let workers = if self.bug == Some(Bug::LimitOfOneWorker) { 1 } else { self.workers };
        usize::from(state.fates[message].deliveries) >= usize::from(self.delivery_limit) + workers
    }

    fn is_suspect(&self, state: &State, message: Message) -> bool {
        self.bug != Some(Bug::NoCare) && state.fates[message].deliveries >= SUSPECT_AT_DELIVERIES
    }
}

impl Process {
    /// How many may have arrived from each partition, in every combination but that of none.
    fn batches(&self) -> Vec<Vec<usize>> {
        let mut batches = vec![Vec::new()];
        for delivered in &self.delivered {
            let with = |batch: &Vec<usize>, count| batch.iter().copied().chain([count]).collect::<Vec<_>>();
            batches = batches.iter().flat_map(|it| (0..=delivered.len()).map(move |count| with(it, count))).collect();
        }
        batches.split_off(1)
    }

    fn is_idle(&self) -> bool {
        self.deciding.is_empty() && self.settling.is_empty()
    }
}
