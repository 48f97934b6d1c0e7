//! The optimistic strategy: read, decide, and commit if nothing moved.
//!
//! Invariant: an item that conflicts is left out of the commit alone; the others of the batch are done.

use super::{Attempt, Conflicts};
use crate::{
    commit::commit,
    decide::{Outcome, Plan, decide},
    read::read,
};
use shared::{db::is_conflict, error::Error, fail_point::pause_at, handler::Answer, messages::PurchaseRequest};
use sqlx::PgConnection;
use std::collections::HashSet;
use uuid::Uuid;

/// Reads, decides and commits; `conflicts` tells how often each item was decided in vain before.
///
/// # Errors
/// The database is away or unfit, or cannot take one of the requests.
pub(super) async fn attempt<'a>(
    connection: &mut PgConnection,
    requests: &[&'a PurchaseRequest],
    conflicts: &Conflicts,
) -> Result<Attempt<'a>, Error> {
    let snapshot = read(connection, requests).await?;
    let plan = decide(requests, &snapshot, Uuid::now_v7);
    pause_at("committing").await;
    let held = match commit(connection, requests, &plan, snapshot.now, conflicts).await {
        Ok(held) => held,
        Err(error) if is_conflict(&error) => return Ok(Attempt::in_vain(requests.len())),
        Err(error) => return Err(error.into()),
    };
    let (committed, overtaken) = plan.changes.keys().copied().partition(|item| held.contains(item));
    Ok(Attempt { answers: answers(requests, &plan, &held), committed, overtaken, is_id_contended: false })
}

/// What holds of the plan.
fn answers(requests: &[&PurchaseRequest], plan: &Plan, held: &HashSet<&str>) -> Vec<Option<Answer>> {
    let mut answers: Vec<Option<Answer>> = Vec::with_capacity(requests.len());
    for (request, outcome) in requests.iter().zip(&plan.outcomes) {
        answers.push(match outcome {
            Outcome::Repeat(reply) => Some(Answer::Verdict(reply.clone())),
            Outcome::Reused(rejection) => Some(Answer::Rejected(rejection.clone())),
            Outcome::Decided(decision) if !decision.on_item || held.contains(request.item.as_str()) => {
                Some(Answer::Verdict(decision.reply.clone()))
            }
            Outcome::Decided(_) => None,
            Outcome::SameAs(first) => answers[*first].clone(),
            Outcome::ClashesWith(first, rejection) => {
                answers[*first].as_ref().map(|_| Answer::Rejected(rejection.clone()))
            }
        });
    }
    answers
}
