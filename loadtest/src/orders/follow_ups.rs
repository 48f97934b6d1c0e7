//! The buyers' second messages: who sent which, and how they were answered. Pure; filled while the sale runs.
//!
//! A buyer who is answered `reserved` follows up as the plan says, once; a repeat of the verdict changes nothing.

use crate::answers::Answers;
use crate::orders::plan::{FollowUp, Plan};
use crate::schedule::Due;
use shared::messages::{Status, Verdict};
use std::time::Duration;
use uuid::Uuid;

/// What a verdict that reserves has in it, whatever else it says: spares reading all the others.
const RESERVED: &[u8] = br#""status":"reserved""#;

/// All second messages of one sale, by the buyer's index.
#[derive(Debug, Default)]
pub struct FollowUps {
    pub plan: Plan,
    /// `None` where the buyer sent none.
    pub sent: Vec<Option<FollowUp>>,
    /// Nothing is in it of those who sent none.
    pub answers: Answers,
    /// How many are without an answer.
    pub open: usize,
    /// The request ids, also of those who send none.
    ids: Vec<Uuid>,
}

impl FollowUps {
    pub fn to(requests: &[Due], plan: Plan) -> Self {
        let ids: Vec<Uuid> = requests.iter().map(|due| FollowUp::request_id_of(due.request_id)).collect();
        Self { plan, sent: vec![None; ids.len()], answers: Answers::to_ids(ids.iter().copied()), open: 0, ids }
    }

    /// Takes in a purchase's verdict; returns what its buyer asks for next, the first time.
    pub fn bought(&mut self, index: usize, body: &[u8], at: Duration) -> Option<FollowUp> {
        if self.sent[index].is_some() || !body.windows(RESERVED.len()).any(|part| part == RESERVED) {
            return None;
        }
        let verdict: Verdict = serde_json::from_slice(body).ok()?;
        let order_id = verdict.order.filter(|_| verdict.status == Status::Reserved)?.id;
        let kind = self.plan.follow_up(index)?;
        self.sent[index] = Some(FollowUp { index, request_id: self.ids[index], order_id, kind, at });
        self.open += 1;
        self.sent[index]
    }

    /// Takes in an answer, if it is one to a message that was sent; else it is for somebody else.
    pub fn answered(&mut self, correlation_id: &str, worker_id: &str, body: &[u8], at: Duration) -> bool {
        let Some(index) = self.answers.index(correlation_id).filter(|&index| self.sent[index].is_some()) else {
            return false;
        };
        self.open -= usize::from(self.answers.answers[index].body.is_none());
        self.answers.record(correlation_id, worker_id, body, at);
        true
    }

    /// Each that was sent, in the order of the buyers.
    pub fn all(&self) -> impl Iterator<Item = &FollowUp> {
        self.sent.iter().flatten()
    }

    pub fn unanswered(&self) -> Vec<FollowUp> {
        self.all().filter(|sent| self.answers.answers[sent.index].body.is_none()).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Scenario, Schedule};

    const AT: Duration = Duration::from_millis(3);
    const RESERVED: &[u8] = br#"{"request_id":"a","status":"reserved","code":"reserved","message":"m","order":{
        "id":"019ac4b6-2d80-7c61-9f0e-2b6a1c8d4e5f","item":"i","quantity":1,"hold_until":"2026-01-01T00:00:00Z"}}"#;

    fn three(pay: &str) -> (FollowUps, Vec<Uuid>) {
        let scenario = Scenario { buyers: 3, seed: 1, ..Scenario::default() };
        let requests = Schedule::new(&scenario, "t").requests;
        let plan = Plan { pay_share: pay.parse().ok(), ..Plan::default() };
        (FollowUps::to(&requests, plan), requests.iter().map(|due| due.request_id).collect())
    }

    #[test]
    fn who_was_answered_reserved_pays_once_and_an_answer_closes_it() {
        let (mut follow_ups, ids) = three("100%");
        let follow_up = follow_ups.bought(1, RESERVED, AT).unwrap();
        assert_eq!((follow_up.exchange(), follow_up.index, follow_up.at), ("payment", 1, AT));
        assert_eq!(follow_ups.bought(1, RESERVED, AT), None, "a repeat changes nothing");
        assert_eq!((follow_ups.open, follow_ups.unanswered()), (1, vec![follow_up]));
        assert!(!follow_ups.answered(&ids[1].to_string(), "w", b"{}", AT), "that is the purchase");
        let id = follow_up.request_id.to_string();
        assert!(follow_ups.answered(&id, "payment-1", b"{}", AT) && follow_ups.answered(&id, "payment-1", b"{}", AT));
        assert_eq!((follow_ups.open, follow_ups.unanswered()), (0, vec![]));
        assert_eq!(follow_ups.answers.answers[1].replies, 2);
    }

    #[test]
    fn who_got_nothing_or_lets_the_hold_run_out_asks_for_nothing() {
        let (mut follow_ups, _) = three("100%");
        assert_eq!(follow_ups.bought(0, br#"{"status":"sold_out"}"#, AT), None);
        let (mut nobody, ids) = three("0%");
        assert_eq!(nobody.bought(0, RESERVED, AT), None);
        let unasked = FollowUp::request_id_of(ids[0]).to_string();
        assert!(!nobody.answered(&unasked, "w", b"{}", AT), "a reply to what nobody sent is a stranger");
    }
}
