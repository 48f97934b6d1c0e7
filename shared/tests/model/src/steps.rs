//! What each worker can do next, and what becomes of the state when it does.

use super::broker::{Message, Worker};
use super::{Action, Batch, Bug, Decision, Handing, Link, Process, Protocol, Published, State, Verdict};

/// Batches that are decided and not settled.
const BATCHES_SETTLING_MAX: usize = 2;

impl Protocol {
    pub(crate) fn actions_of(&self, state: &State, worker: Worker, process: &Process, actions: &mut Vec<Action>) {
        match process.link {
            Link::None => return actions.push(Action::Subscribe(worker)),
            Link::Closing => return actions.push(Action::Close(worker)),
            Link::Lost => actions.push(Action::NoticeLoss(worker)),
            Link::Open => self.actions_of_connected(state, worker, process, actions),
        }
        if process.deciding.is_empty() {
            actions.extend(process.batches().into_iter().map(|counts| Action::Take(worker, counts)));
        }
        if process.settling.len() < BATCHES_SETTLING_MAX {
            let mut partitions: Vec<_> = process
                .deciding
                .iter()
                .filter(|it| !it.is_committed)
                .map(|it| self.messages[it.message].partition)
                .collect();
            partitions.dedup();
            actions.extend(partitions.into_iter().map(|partition| Action::Commit(worker, partition)));
        }
        if process.settling.iter().any(|batch| !batch.is_published) {
            actions.push(Action::Publish(worker));
        }
        if process.settling.first().is_some_and(|it| self.may_acknowledge(it)) {
            actions.push(Action::Acknowledge(worker));
        }
    }

    fn may_acknowledge(&self, batch: &Batch) -> bool {
        !batch.is_acknowledged && (batch.is_published || self.bug == Some(Bug::AcknowledgedBeforeConfirm))
    }

    fn actions_of_connected(&self, state: &State, worker: Worker, process: &Process, actions: &mut Vec<Action>) {
        if state.faults > 0 {
            actions.extend([Action::Kill(worker), Action::LoseConnection(worker)]);
        }
        match &process.handing_over {
            Some(Handing { is_cancelled: true, .. }) => actions.push(Action::ReleaseHeld(worker)),
            Some(Handing { held, .. }) if held.len() >= self.window || self.bug == Some(Bug::HandedOverEarly) => {
                actions.push(Action::CancelHeld(worker));
            }
            Some(_) => (),
            None if state.moves == 0 || process.is_careful => (),
            None => {
                let own = state.queues.iter().enumerate();
                let own = own.filter(|(_, queue)| queue.active() == Some(worker) && queue.has_standby());
                actions.extend(own.map(|(partition, _)| Action::HoldPartition(worker, partition)));
            }
        }
        if state.moves > 0 && process.is_idle() {
            actions.push(Action::Drain(worker));
        }
    }

    pub(crate) fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Subscribe(worker) => {
                state.workers[worker].link = Link::Open;
                state.queues.iter_mut().for_each(|queue| queue.subscribe(worker));
            }
            Action::Take(worker, counts) => self.take(state, worker, &counts),
            Action::Commit(worker, partition) => self.commit(state, worker, partition),
            Action::Publish(worker) => {
                let batch = state.workers[worker].settling.iter_mut().find(|batch| !batch.is_published);
                let batch = batch.expect("one is to be published");
                batch.is_published = true;
                for message in batch.messages.clone() {
                    state.fates[message].is_answered = true;
                }
                forget_settled(&mut state.workers[worker]);
            }
            Action::Acknowledge(worker) => self.acknowledge(state, worker),
            Action::NoticeLoss(worker) => {
                state.workers[worker] = self.new_process(state.queues.len(), state.workers[worker].is_careful);
            }
            Action::HoldPartition(worker, partition) => {
                state.moves -= 1;
                state.workers[worker].handing_over = Some(Handing { partition, held: Vec::new(), is_cancelled: false });
            }
            Action::CancelHeld(worker) => {
                let handing = state.workers[worker].handing_over.as_mut().expect("a partition is held");
                handing.is_cancelled = true;
                state.queues[handing.partition].cancel(worker);
            }
            Action::ReleaseHeld(worker) => {
                let handing = state.workers[worker].handing_over.take().expect("a partition is held");
                settle(state, worker, &handing.held, handing.partition);
                state.queues[handing.partition].subscribe(worker);
            }
            Action::Drain(worker) => {
                state.moves -= 1;
                if let Some(handing) = state.workers[worker].handing_over.take() {
                    settle(state, worker, &handing.held, handing.partition);
                }
                if self.bug == Some(Bug::OrderlyClose) {
                    state.queues.iter_mut().for_each(|queue| queue.cancel(worker));
                    state.workers[worker].link = Link::Closing;
                } else {
                    self.cut(state, worker, false);
                }
            }
            Action::Close(worker) => self.cut(state, worker, false),
            Action::AddUnit(item) => change_stock(state, item, 1),
            Action::RemoveUnit(item) => change_stock(state, item, -1),
            Action::Kill(worker) => {
                state.faults -= 1;
                self.cut(state, worker, false);
            }
            Action::LoseConnection(worker) => {
                state.faults -= 1;
                self.end_connection(state, worker);
                state.workers[worker].link = Link::Lost;
            }
            Action::CancelConsumer(partition, count) => self.cancel_consumer(state, partition, count),
        }
    }

    /// Reads the items and the verdicts, and decides what has arrived, in order.
    fn take(&self, state: &mut State, worker: Worker, counts: &[usize]) {
        let process = &state.workers[worker];
        let arrived = process.delivered.iter().zip(counts);
        let mut taken: Vec<Message> = arrived.flat_map(|(delivered, count)| &delivered[..*count]).copied().collect();
        if !process.is_careful
            && let Some(place) = taken.iter().position(|message| self.is_suspect(state, *message))
        {
            taken.truncate(place);
            if taken.is_empty() {
                // What is in hand is settled first, so this may come a little later.
                return self.cut(state, worker, true);
            }
        }
        let judges = process.is_careful || self.bug == Some(Bug::NoCare);
        let is_judged = |message: &mut Message| judges && self.is_at_limit(state, *message);
        let judged: Vec<Message> = taken.extract_if(.., is_judged).collect();
        // It is settled before the others are taken in hand.
        for message in judged.iter().copied() {
            state.fates[message].is_dead = true;
            state.queues[self.messages[message].partition].acknowledge(worker, message);
        }
        if taken.iter().any(|message| self.messages[*message].is_poison) {
            return self.cut(state, worker, false);
        }
        for delivered in &mut state.workers[worker].delivered {
            delivered.retain(|message| !taken.contains(message) && !judged.contains(message));
        }
        let is_clear = judged.is_empty() && !taken.iter().any(|message| self.is_suspect(state, *message));
        state.workers[worker].deciding = self.decide(state, &taken);
        // What follows a message that nothing is known against is consumed a whole window at a time again.
        state.workers[worker].is_careful &= !is_clear;
    }

    fn decide(&self, state: &State, messages: &[Message]) -> Vec<Decision> {
        let mut items = state.items.clone();
        let mut verdicts = state.verdicts.clone();
        let mut decided = Vec::new();
        for &message in messages {
            let it = self.messages[message];
            let version = state.items[it.partition].version;
            let item = &mut items[it.partition];
            let verdict = verdicts[it.request].is_none().then(|| {
                if item.available > 0 {
                    item.available -= 1;
                    return Verdict::Reserved;
                }
                Verdict::SoldOut
            });
            verdicts[it.request] = verdicts[it.request].or(verdict);
            decided.push(Decision { message, version, verdict, is_committed: false });
        }
        decided
    }

    /// Writes what is decided of one item, if it is still as it was read; else it is read and decided again.
    fn commit(&self, state: &mut State, worker: Worker, partition: usize) {
        let mut deciding = std::mem::take(&mut state.workers[worker].deciding);
        let is_of = |it: &Decision| self.messages[it.message].partition == partition && !it.is_committed;
        let is_right = |it: &Decision| {
            let is_recorded = state.verdicts[self.messages[it.message].request].is_some();
            (it.version == state.items[partition].version || self.bug == Some(Bug::NoVersionCheck))
                && (it.verdict.is_none() || !is_recorded || self.bug == Some(Bug::NoRequestIdCheck))
        };
        if deciding.iter().filter(|it| is_of(it)).all(is_right) {
            for it in deciding.iter_mut().filter(|it| is_of(it)) {
                it.is_committed = true;
                if let Some(verdict) = it.verdict {
                    self.record(state, it.message, verdict);
                }
            }
        } else {
            let again: Vec<Message> = deciding.iter().filter(|it| is_of(it)).map(|it| it.message).collect();
            let mut again = self.decide(state, &again).into_iter();
            for it in deciding.iter_mut().filter(|it| is_of(it)) {
                *it = again.next().expect("one decision for each");
            }
        }
        let process = &mut state.workers[worker];
        if deciding.iter().all(|it| it.is_committed) {
            let messages = deciding.iter().map(|it| it.message).collect();
            process.settling.push(Batch { messages, is_published: false, is_acknowledged: false });
        } else {
            process.deciding = deciding;
        }
    }

    fn record(&self, state: &mut State, message: Message, verdict: Verdict) {
        let it = self.messages[message];
        let is_passed_over = |(earlier, other): (usize, &Published)| {
            let is_open = state.verdicts[other.request].is_none() && !state.fates[earlier].is_dead;
            other.partition == it.partition && other.request != it.request && is_open
        };
        state.is_inverted |= self.messages.iter().enumerate().take(message).any(is_passed_over);
        state.is_twice |= state.verdicts[it.request].is_some();
        state.verdicts[it.request] = Some(verdict);
        let item = &mut state.items[it.partition];
        match verdict {
            Verdict::Reserved => {
                item.available -= 1;
                item.version += 1;
            }
            Verdict::SoldOut => state.is_false_sold_out |= item.available > 0,
        }
    }

    fn acknowledge(&self, state: &mut State, worker: Worker) {
        let mut batch = state.workers[worker].settling.remove(0);
        for message in batch.messages.clone() {
            let partition = self.messages[message].partition;
            match &mut state.workers[worker].handing_over {
                Some(handing) if handing.partition == partition && !handing.is_cancelled => handing.held.push(message),
                Some(_) | None => settle(state, worker, &[message], partition),
            }
        }
        batch.is_acknowledged = true;
        state.workers[worker].settling.insert(0, batch);
        forget_settled(&mut state.workers[worker]);
    }

    fn cancel_consumer(&self, state: &mut State, partition: usize, count: usize) {
        state.faults -= 1;
        let worker = state.queues[partition].active().expect("somebody is active");
        state.queues[partition].cancel(worker);
        self.take_back(state, worker, partition, count);
        if self.bug != Some(Bug::ShortConsumerTimeout) {
            // A consumer that is cancelled is over, and the session with it, as soon as the worker hears of it.
            self.end_connection(state, worker);
            state.workers[worker].link = Link::Lost;
        }
    }

    /// The worker's session is over, from both sides.
    fn cut(&self, state: &mut State, worker: Worker, is_careful: bool) {
        self.end_connection(state, worker);
        state.workers[worker] = self.new_process(state.queues.len(), is_careful);
    }

    fn end_connection(&self, state: &mut State, worker: Worker) {
        for partition in 0..state.queues.len() {
            state.queues[partition].cancel(worker);
            self.take_back(state, worker, partition, usize::MAX);
        }
    }

    fn take_back(&self, state: &mut State, worker: Worker, partition: usize, count: usize) {
        for message in state.queues[partition].take_back(worker, count) {
            if self.has_poison() {
                state.fates[message].deliveries += 1;
            }
        }
    }
}

fn change_stock(state: &mut State, item: usize, units: i8) {
    state.moves -= 1;
    state.items[item].available += units;
    state.items[item].version += 1;
}

fn settle(state: &mut State, worker: Worker, messages: &[Message], partition: usize) {
    for message in messages {
        if state.queues[partition].acknowledge(worker, *message) {
            state.fates[*message].is_acknowledged = true;
        }
    }
}

fn forget_settled(process: &mut Process) {
    process.settling.retain(|batch| !(batch.is_published && batch.is_acknowledged));
}
