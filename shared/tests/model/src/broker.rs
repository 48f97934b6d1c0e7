//! The broker's side: a partition is a quorum queue with a single active consumer.

/// A message, by its place among all that were ever published.
pub(crate) type Message = usize;
pub(crate) type Worker = usize;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Queue {
    /// What came back, to be delivered before `ready`.
    pub returned: Vec<Message>,
    pub ready: Vec<Message>,
    /// Who has subscribed, in this order; the first is active.
    pub line: Vec<Worker>,
    /// Delivered and not settled, in the order of delivery.
    pub unsettled: Vec<(Worker, Message)>,
}

impl Queue {
    pub fn subscribe(&mut self, worker: Worker) {
        self.line.push(worker);
    }

    /// The next in line is active at once; what the worker has not settled stays with it.
    pub fn cancel(&mut self, worker: Worker) {
        self.line.retain(|other| *other != worker);
    }

    pub fn active(&self) -> Option<Worker> {
        self.line.first().copied()
    }

    pub fn place_of(&self, worker: Worker) -> Option<usize> {
        self.line.iter().position(|other| *other == worker)
    }

    pub fn renumber(&mut self, number: impl Fn(Worker) -> Worker) {
        self.line.iter_mut().for_each(|worker| *worker = number(*worker));
        self.unsettled.iter_mut().for_each(|(worker, _)| *worker = number(*worker));
    }

    /// Whether somebody waits for the active one to leave.
    pub fn has_standby(&self) -> bool {
        self.line.len() > 1
    }

    pub fn unsettled_of(&self, worker: Worker) -> impl Iterator<Item = Message> {
        self.unsettled.iter().filter(move |(holder, _)| *holder == worker).map(|(_, message)| *message)
    }

    /// Sends the active consumer what its window has room for. The broker does so in the same step in which a message or a
    /// consumer comes or goes, so nothing can happen in between.
    pub fn fill_window(&mut self, window: usize) -> Vec<Message> {
        let Some(active) = self.active() else { return Vec::new() };
        let room = window.saturating_sub(self.unsettled_of(active).count());
        let again = self.returned.len().min(room);
        let mut sent: Vec<_> = self.returned.drain(..again).collect();
        sent.extend(self.ready.drain(..self.ready.len().min(room - again)));
        self.unsettled.extend(sent.iter().map(|message| (active, *message)));
        sent
    }

    /// Has effect only on what is still with the worker.
    pub fn acknowledge(&mut self, worker: Worker, message: Message) -> bool {
        let before = self.unsettled.len();
        self.unsettled.retain(|delivery| *delivery != (worker, message));
        self.unsettled.len() < before
    }

    /// The first `count` of what the worker has not settled are to come again, in order, behind what came back before.
    pub fn take_back(&mut self, worker: Worker, count: usize) -> Vec<Message> {
        let returned: Vec<_> = self.unsettled_of(worker).take(count).collect();
        self.unsettled.retain(|(holder, message)| *holder != worker || !returned.contains(message));
        self.returned.extend(&returned);
        returned
    }
}
