//! A sale whose units come back, decided once more: every change of an item's stock, in the order in which they were made.
//!
//! Where stock only shrinks, what is left at the end was left all along, and that is enough to judge by. Here it is not, so
//! the order is rebuilt. An item's version goes up by one with each decision on it and with each time that units come back
//! ([`Replay`] finds fault with any other number). Purchases say in their verdicts which version they were decided on. What
//! they leave over are the versions at which units came back, one after the other as their events are numbered: the number is
//! given out while the item's row is locked. So how many units were there for each single decision is known exactly.
//!
//! Invariant: nothing is judged on an item whose versions do not add up; that is a fault of its own.

use std::collections::{BTreeMap, HashMap};

use shared::messages::{EventKind, Status, Verdict};

use super::LifeFacts;
use crate::auditor::Case;
use crate::facts::RecordedItem;
use crate::schedule::ItemOnSale;

/// What the replay finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::auditor) struct Replay {
    /// Items that were oversold, with the most units beyond what there was.
    pub(in crate::auditor) oversold: Vec<(String, u64)>,
    /// Requests, by index, that were sold out while there were enough units.
    pub(in crate::auditor) sent_away: Vec<usize>,
    /// Requests, by index, that got units before an earlier one was decided, which then got none.
    pub(in crate::auditor) preferred: Vec<usize>,
    /// Items whose versions, events and stock do not add up, and why.
    pub(in crate::auditor) unaccounted: Vec<String>,
}

/// What was done to one item at one version.
enum Change<'a> {
    /// These requests were decided, in this order.
    Decided(&'a [usize]),
    /// So many units came back.
    CameBack(u64),
}

/// The decisions and the returns of one item.
#[derive(Default)]
struct Story {
    /// By version, each in the order of their publishing.
    decided: BTreeMap<i64, Vec<usize>>,
    /// By the number of the event.
    came_back: BTreeMap<u64, u64>,
    /// By request: the number of the event that tells of its order.
    reserved: HashMap<String, u64>,
    /// Verdicts that do not say which version they are of.
    versionless: usize,
}

impl Replay {
    /// Decides the sale once more.
    pub(in crate::auditor) fn of(case: &Case<'_>, life: &LifeFacts<'_>) -> Self {
        let mut stories: HashMap<&str, Story> = HashMap::new();
        for (index, due) in case.requests() {
            let item = case.facts.schedule.items[due.item as usize].id.as_str();
            // Without a record there is nothing to replay; another invariant says so.
            let Some(recorded) = case.recorded_verdict(index) else { continue };
            let verdict: Option<Verdict> = serde_json::from_str(&recorded.reply).ok();
            let story = stories.entry(item).or_default();
            match verdict.and_then(|verdict| verdict.item_version) {
                Some(version) => story.decided.entry(version).or_default().push(index),
                None => story.versionless += 1,
            }
        }
        for first in &life.events.firsts {
            let (Some(story), Some(order)) = (stories.get_mut(first.event.item.as_str()), &first.event.order) else {
                continue;
            };
            match first.event.event {
                EventKind::OrderReserved => drop(story.reserved.insert(order.request_id.clone(), first.number.0)),
                EventKind::OrderExpired | EventKind::OrderCancelled => {
                    *story.came_back.entry(first.number.0).or_default() += u64::from(order.quantity);
                }
                EventKind::OrderPaying
                | EventKind::OrderDeclined
                | EventKind::OrderPaid
                | EventKind::ItemCreated
                | EventKind::ItemStockAdded
                | EventKind::ItemStockRemoved
                | EventKind::ItemOpened
                | EventKind::ItemClosed
                | EventKind::ItemRulesChanged => {}
            }
        }
        let rows = case.facts.recorded.map_or(&[][..], |recorded| recorded.items.as_slice());
        let rows: HashMap<&str, &RecordedItem> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
        let mut replay = Self::default();
        for item in &case.facts.schedule.items {
            let (story, row) = (stories.remove(item.id.as_str()).unwrap_or_default(), rows.get(item.id.as_str()));
            // An item that is gone is found by another invariant.
            if let Some(row) = row
                && let Err(why) = replay.retell(case, item, row, &story)
            {
                replay.unaccounted.push(format!("{}: {why}", item.id));
            }
        }
        replay
    }

    fn retell(&mut self, case: &Case<'_>, item: &ItemOnSale, row: &RecordedItem, story: &Story) -> Result<(), String> {
        let changes = story.in_order(case, row)?;
        let mut available = i64::try_from(item.stock).unwrap_or(i64::MAX);
        let mut least = available;
        for change in changes {
            match change {
                Change::CameBack(units) => available += i64::try_from(units).unwrap_or(i64::MAX),
                Change::Decided(requests) => {
                    for &index in requests {
                        let quantity = i64::from(case.facts.schedule.requests[index].quantity);
                        match case.recorded_verdict(index).map(|verdict| verdict.status) {
                            Some(Status::Reserved) => available -= quantity,
                            Some(Status::SoldOut) if available >= quantity => self.sent_away.push(index),
                            Some(Status::SoldOut | Status::Refused | Status::Done | Status::Invalid) | None => {}
                        }
                        least = least.min(available);
                    }
                }
            }
        }
        if least < 0 {
            self.oversold.push((item.id.clone(), least.unsigned_abs()));
        }
        self.preferred.extend(story.preferred(case));
        match available == row.available {
            true => Ok(()),
            false => Err(format!("{available} units should be available, and {} are", row.available)),
        }
    }
}

impl Story {
    /// Every change of the item's stock, by version.
    fn in_order(&self, case: &Case<'_>, row: &RecordedItem) -> Result<Vec<Change<'_>>, String> {
        if self.versionless > 0 {
            return Err(format!("{} verdicts do not say on which version they were decided", self.versionless));
        }
        let (decided, came_back) = (self.decided.len(), self.came_back.len());
        if i64::try_from(decided + came_back) != Ok(row.version) {
            let version = row.version;
            return Err(format!("{decided} decisions and {came_back} returns of units make no version {version}"));
        }
        let mut returns = self.came_back.iter();
        let mut changes = Vec::with_capacity(decided + came_back);
        let mut told = 0;
        for version in 0..row.version {
            let (change, number) = match self.decided.get(&version) {
                Some(requests) => {
                    let reserved = requests.iter().filter(|&&index| case.status(index) == Some(Status::Reserved));
                    let number = reserved.filter_map(|&index| self.reserved.get(&case.ids[index])).max();
                    (Change::Decided(requests), number)
                }
                None => {
                    let Some((number, units)) = returns.next() else {
                        return Err(format!("nothing happened at version {version}"));
                    };
                    (Change::CameBack(*units), Some(number))
                }
            };
            if number.is_some_and(|number| *number < told) {
                return Err(format!("what happened at version {version} is told as if it had happened before"));
            }
            told = number.copied().unwrap_or(told);
            changes.push(change);
        }
        Ok(changes)
    }

    /// Who got units at a version before that at which an earlier request was sold out.
    fn preferred(&self, case: &Case<'_>) -> Vec<usize> {
        let mut by_place: Vec<(usize, i64)> = self
            .decided
            .iter()
            .flat_map(|(version, requests)| requests.iter().map(move |&index| (index, *version)))
            .collect();
        by_place.sort_unstable();
        let (mut sold_out_at, mut preferred) = (i64::MIN, Vec::new());
        for (index, version) in by_place {
            match case.recorded_verdict(index).map(|verdict| verdict.status) {
                Some(Status::SoldOut) => sold_out_at = sold_out_at.max(version),
                Some(Status::Reserved) if version < sold_out_at => preferred.push(index),
                Some(Status::Reserved | Status::Refused | Status::Done | Status::Invalid) | None => {}
            }
        }
        preferred
    }
}
