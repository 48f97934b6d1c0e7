//! A gateway that keeps its promises in memory, and does at each step what a test wants.

use futures_util::future::BoxFuture;
use payment::gateway::{Charge, Gateway, Outcome, Unknown};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard},
};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// The bank. By default it captures, at once.
pub(crate) struct Bank {
    books: Mutex<Books>,
    /// What lets an answer out; without limit unless the bank is closed.
    doors: HashMap<Uuid, Semaphore>,
}

#[derive(Default)]
struct Books {
    /// Every ask, in order: (key, method).
    asked: Vec<(Uuid, String)>,
    /// The charges captured, by key. One at most, as the contract says.
    charges: HashMap<Uuid, String>,
    refunded: HashSet<Uuid>,
    /// Methods that are declined.
    declined: HashSet<String>,
    /// Answers that are lost on their way, after the bank has done what it was asked; the next first.
    lost: VecDeque<()>,
}

impl Bank {
    pub(crate) fn open() -> Self {
        Self { books: Mutex::default(), doors: HashMap::new() }
    }

    /// A bank that keeps its answers about these orders to itself, until they are let out.
    pub(crate) fn silent_on(orders: &[Uuid]) -> Self {
        let doors = orders.iter().map(|order| (*order, Semaphore::new(0))).collect();
        Self { doors, ..Self::open() }
    }

    pub(crate) fn declines(self, method: &str) -> Self {
        self.books().declined.insert(method.to_owned());
        self
    }

    /// Loses so many answers.
    pub(crate) fn loses(self, answers: usize) -> Self {
        self.books().lost.extend(std::iter::repeat_n((), answers));
        self
    }

    pub(crate) fn let_out(&self, order: Uuid) {
        self.doors[&order].add_permits(1_000);
    }

    pub(crate) fn asked(&self) -> Vec<(Uuid, String)> {
        self.books().asked.clone()
    }

    /// How many charges are captured and not given back.
    pub(crate) fn charges(&self) -> usize {
        let books = self.books();
        books.charges.keys().filter(|key| !books.refunded.contains(key)).count()
    }

    /// Ends when it has been asked so often.
    pub(crate) async fn until_asked(&self, times: usize) {
        while self.asked().len() < times {
            tokio::task::yield_now().await;
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Done as soon as it is asked, whether or not anybody hears the answer.
    fn decide(&self, charge: &Charge) -> Result<Outcome, Unknown> {
        let mut books = self.books();
        books.asked.push((charge.order_id, charge.payment_method.clone()));
        let outcome = match books.charges.get(&charge.order_id) {
            Some(charge_id) => Outcome::Captured { charge_id: charge_id.clone() },
            None if books.declined.contains(&charge.payment_method) => {
                Outcome::Declined { reason: "no funds".to_owned() }
            }
            None => {
                let charge_id = format!("ch-{}", books.charges.len());
                books.charges.insert(charge.order_id, charge_id.clone());
                Outcome::Captured { charge_id }
            }
        };
        match books.lost.pop_front() {
            Some(()) => Err(Unknown::Away("as the test wants it".to_owned())),
            None => Ok(outcome),
        }
    }
}

impl Gateway for Bank {
    fn charge<'a>(&'a self, charge: &'a Charge) -> BoxFuture<'a, Result<Outcome, Unknown>> {
        let decided = self.decide(charge);
        Box::pin(async {
            if let Some(door) = self.doors.get(&charge.order_id) {
                door.acquire().await.unwrap().forget();
            }
            decided
        })
    }

    fn refund(&self, order_id: Uuid) -> BoxFuture<'_, Result<(), Unknown>> {
        self.books().refunded.insert(order_id);
        Box::pin(std::future::ready(Ok(())))
    }
}
