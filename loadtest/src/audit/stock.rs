//! Whether units were given out right: never more than there were, to nobody while there were none, to the first first.
//!
//! Where stock only shrinks, what is left at the end was left all along; and on the queue, where requests have one order,
//! whoever asks finds what those before them left over. Where units come back, the sale is replayed. An item's version
//! goes up by one with each decision on it and each return of units. Purchases say in their verdicts which version they
//! were decided on. The versions that they leave over are the returns, in the order of their events' numbers: a number is
//! given out while the item's row is locked.
//!
//! Nothing is judged on an item whose versions do not add up; that is a fault of its own.

use super::database_state::RecordedItem;
use super::events::{Units, units_of};
use super::{Case, Scope};
use crate::orders::events::Events;
use crate::schedule::ItemOnSale;
use shared::messages::{Status, Verdict};
use std::collections::{BTreeMap, HashMap};

/// Who offends. Requests are indices into the schedule.
#[derive(Debug, Default)]
pub(super) struct Stock {
    /// Items, with the most units beyond what there was.
    pub(super) oversold: Vec<(String, u64)>,
    /// Requests that were sold out while there were enough units.
    pub(super) sent_away: Vec<usize>,
    /// Requests that got units before an earlier one was decided, which then got none; or such earlier ones.
    pub(super) preferred: Vec<usize>,
    /// How many there are, and by HTTP also of those that were under way at once.
    pub(super) inversions: u64,
    /// Items whose versions, events and units do not add up, and why; `None` where nothing was replayed.
    pub(super) unaccounted: Option<Vec<String>>,
}

impl Stock {
    pub(super) fn of(case: &Case<'_>) -> Self {
        match case.evidence.scope {
            // The ceiling has no stock to oversell.
            Scope::Replies => Self::default(),
            Scope::Records => Self::only_shrinking(case),
            Scope::Orders => Self::replayed(case, &case.evidence.events),
        }
    }

    fn only_shrinking(case: &Case<'_>) -> Self {
        let items = &case.evidence.schedule.items;
        let mut reserved = vec![0_u64; items.len()];
        let mut left: Vec<_> = items.iter().map(|item| i64::try_from(item.stock).unwrap_or(i64::MAX)).collect();
        let (mut stock, mut passed_over) = (Self::default(), Vec::new());
        for index in 0..case.ids.len() {
            let (item, quantity, status) = (case.item(index), case.quantity(index), case.status(index));
            let is_reserved = [status, case.answered[index]].contains(&Some(Status::Reserved));
            if is_reserved || !case.orders[index].is_empty() {
                let ordered: i64 = case.orders[index].iter().map(|order| order.quantity.max(0)).sum();
                reserved[item] += ordered.max(quantity).unsigned_abs();
            }
            let is_left = case.items[item].is_some_and(|row| row.available >= quantity);
            let is_on_queue = case.evidence.answers.answers[index].begun.is_none();
            match status {
                Some(Status::SoldOut) if is_left => stock.sent_away.push(index),
                Some(Status::SoldOut) if is_on_queue && left[item] >= quantity => passed_over.push(index),
                Some(Status::Reserved) => left[item] -= quantity,
                Some(Status::SoldOut | Status::Refused | Status::Done | Status::Invalid) | None => (),
            }
        }
        stock.preferred = preferred(case, case.in_order(0..case.ids.len()));
        // What they asked for went to smaller requests behind them.
        if stock.preferred.is_empty() {
            stock.preferred = passed_over;
        }
        stock.inversions = preferred(case, case.in_order_of(0..case.ids.len(), |begun, _| begun)).len() as u64;
        let oversold = items.iter().zip(reserved).filter(|(item, units)| *units > item.stock);
        stock.oversold = oversold.map(|(item, units)| (item.id.clone(), units - item.stock)).collect();
        stock
    }

    fn replayed(case: &Case<'_>, events: &Events) -> Self {
        let (mut stock, mut unaccounted) = (Self::default(), Vec::new());
        for (item, changes) in changes(case, events).iter().enumerate() {
            // An item that is gone is found by another invariant.
            let Some(row) = case.items[item] else { continue };
            if let Err(why) = changes.replay(case, &case.evidence.schedule.items[item], row, &mut stock) {
                unaccounted.push(format!("{}: {why}", row.id));
            }
        }
        Self { unaccounted: Some(unaccounted), ..stock }
    }
}

/// Whoever comes after a sold-out request for the same item and asks for as much or more must be refused too.
fn preferred(case: &Case<'_>, in_order: Vec<usize>) -> Vec<usize> {
    let mut least_refused = vec![i64::MAX; case.items.len()];
    let is_preferred = |&index: &usize| {
        let (least, quantity) = (&mut least_refused[case.item(index)], case.quantity(index));
        if case.status(index) == Some(Status::SoldOut) {
            *least = quantity.min(*least);
            return false;
        }
        quantity >= *least
    };
    in_order.into_iter().filter(is_preferred).collect()
}

/// The decisions and the returns of one item.
#[derive(Default, Clone)]
struct Changes {
    /// By version, each in publish order; under one that cannot be, so that they do not add up, whatever says none.
    decided: BTreeMap<i64, Vec<usize>>,
    /// Units, by the number of the event.
    came_back: BTreeMap<u64, i64>,
    /// By request: the number of the event that tells of its order.
    reserved: HashMap<usize, u64>,
}

/// Of each item of the schedule.
fn changes(case: &Case<'_>, events: &Events) -> Vec<Changes> {
    let mut all = vec![Changes::default(); case.items.len()];
    for index in 0..case.ids.len() {
        // Without a record there is nothing to replay; another invariant says so.
        let Some(recorded) = case.recorded[index] else { continue };
        let verdict: Option<Verdict> = serde_json::from_str(&recorded.reply).ok();
        let version = verdict.and_then(|verdict| verdict.item_version).unwrap_or(-1);
        all[case.item(index)].decided.entry(version).or_default().push(index);
    }
    let items: HashMap<&str, usize> =
        case.evidence.schedule.items.iter().map(|item| item.id.as_str()).zip(0..).collect();
    for published in &events.published {
        let Some((&item, order)) = items.get(published.event.item.as_str()).zip(published.event.order.as_ref()) else {
            continue;
        };
        let (changes, number) = (&mut all[item], published.number.0);
        match units_of(published.event.event) {
            Units::Reserved => {
                if let Some(index) = case.index(&order.request_id) {
                    changes.reserved.insert(index, number);
                }
            }
            Units::CameBack => *changes.came_back.entry(number).or_default() += i64::from(order.quantity),
            Units::Sold | Units::Unmoved => {}
        }
    }
    all
}

impl Changes {
    /// Makes every change once more, by version, and notes who offends; fails where they do not add up.
    fn replay(&self, case: &Case<'_>, item: &ItemOnSale, row: &RecordedItem, stock: &mut Stock) -> Result<(), String> {
        let (decided, came_back, version) = (self.decided.len(), self.came_back.len(), row.version);
        if i64::try_from(decided + came_back) != Ok(version) {
            return Err(format!("{decided} decisions and {came_back} returns of units make no version {version}"));
        }
        let mut available = i64::try_from(item.stock).unwrap_or(i64::MAX);
        let (mut least, mut published, mut sent_away) = (available, 0, Vec::new());
        let mut returns = self.came_back.iter();
        for version in 0..version {
            let mut number = None;
            if let Some(requests) = self.decided.get(&version) {
                for index in case.in_order(requests.iter().copied()) {
                    if case.status(index) == Some(Status::Reserved) {
                        available -= case.quantity(index);
                        number = number.max(self.reserved.get(&index));
                    } else if available >= case.quantity(index) {
                        sent_away.push(index);
                    }
                }
            } else {
                let next = returns.next().ok_or_else(|| format!("nothing happened at version {version}"))?;
                available += next.1;
                number = Some(next.0);
            }
            if number.is_some_and(|number| *number < published) {
                return Err(format!("what happened at version {version} is told as if it had happened before"));
            }
            published = number.copied().unwrap_or(published);
            least = least.min(available);
        }
        stock.sent_away.extend(sent_away);
        let decided = || self.decided.values().flatten().copied();
        let versions = self.versions();
        stock.preferred.extend(preferred_at(case, &versions, case.in_order(decided())));
        let strictly = case.in_order_of(decided(), |begun, _| begun);
        stock.inversions += preferred_at(case, &versions, strictly).len() as u64;
        if least < 0 {
            stock.oversold.push((item.id.clone(), least.unsigned_abs()));
        }
        match available == row.available {
            true => Ok(()),
            false => Err(format!("{available} units should be available, and {} are", row.available)),
        }
    }

    /// Of each request, at which version it was decided.
    fn versions(&self) -> HashMap<usize, i64> {
        let decided = self.decided.iter();
        decided.flat_map(|(version, requests)| requests.iter().map(|&index| (index, *version))).collect()
    }
}

/// Who got units at a version before that at which an earlier request was sold out, or, decided with it at one version,
/// asked for no less.
fn preferred_at(case: &Case<'_>, versions: &HashMap<usize, i64>, in_order: Vec<usize>) -> Vec<usize> {
    let (mut sold_out_at, mut least_refused, mut preferred) = (i64::MIN, HashMap::new(), Vec::new());
    for index in in_order {
        let (version, quantity) = (versions[&index], case.quantity(index));
        let least = least_refused.entry(version).or_insert(i64::MAX);
        if case.status(index) == Some(Status::SoldOut) {
            sold_out_at = sold_out_at.max(version);
            *least = quantity.min(*least);
        } else if version < sold_out_at || quantity >= *least {
            preferred.push(index);
        }
    }
    preferred
}
