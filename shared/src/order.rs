//! An order's life, as a state machine: which event leads from which state to which. Pure.
//!
//! Invariant: an order ends at most once. From `paid`, `expired` and `cancelled` nothing leads anywhere, so what a
//! reserved order holds is given back once, or never.

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Its units are held until `hold_until`.
    Reserved,
    /// Its units are held while it is being paid for.
    Paying,
    /// Its units are sold.
    Paid,
    /// Its hold ran out, and its units went back.
    Expired,
    /// It was cancelled, and its units went back.
    Cancelled,
}

/// What happens to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// `hold_until` has passed.
    HoldPassed,
    /// Its buyer, or the shop, no longer wants it.
    Cancel,
}

/// Why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It is cancelled.
    AlreadyCancelled,
    /// Its hold ran out.
    AlreadyExpired,
    /// It is paid for.
    AlreadyPaid,
    /// It is being paid for, and how that ends is not known yet.
    PaymentUnderWay,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Reserved, Self::Paying, Self::Paid, Self::Expired, Self::Cancelled];

    /// The state that `event` leads to.
    ///
    /// # Errors
    /// Why it leads nowhere: the order stays as it is.
    pub fn after(self, event: Event) -> Result<Self, Refusal> {
        match (self, event) {
            (Self::Reserved, Event::HoldPassed) => Ok(Self::Expired),
            (Self::Reserved, Event::Cancel) => Ok(Self::Cancelled),
            (Self::Paying, Event::HoldPassed | Event::Cancel) => Err(Refusal::PaymentUnderWay),
            (Self::Paid, Event::HoldPassed | Event::Cancel) => Err(Refusal::AlreadyPaid),
            (Self::Expired, Event::HoldPassed | Event::Cancel) => Err(Refusal::AlreadyExpired),
            (Self::Cancelled, Event::HoldPassed | Event::Cancel) => Err(Refusal::AlreadyCancelled),
        }
    }

    /// The word used in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Paying => "paying",
            Self::Paid => "paid",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that the database calls by this word.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl Event {
    /// The word used in the database: what caused a transition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HoldPassed => "hold_passed",
            Self::Cancel => "cancel",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::select};

    const EVENTS: [Event; 2] = [Event::HoldPassed, Event::Cancel];

    fn holds_units(state: State) -> bool {
        matches!(state, State::Reserved | State::Paying)
    }

    proptest! {
        #[test]
        fn whatever_happens_an_order_ends_once_and_its_units_go_back_at_most_once(
            start in select(&State::ALL[..]),
            events in prop::collection::vec(select(&EVENTS[..]), 0..20),
        ) {
            let (mut state, mut given_back) = (start, 0);
            for event in events {
                match state.after(event) {
                    Ok(next) => {
                        prop_assert!(holds_units(state), "nothing leads out of {state:?}");
                        given_back += u32::from(!holds_units(next));
                        state = next;
                    }
                    Err(refusal) => prop_assert_eq!(refusal, reason(state), "the reason is the state"),
                }
            }
            prop_assert!(given_back <= 1);
            prop_assert_eq!(given_back == 1, state != start, "whatever leads out of a state here gives units back");
        }
    }

    fn reason(state: State) -> Refusal {
        match state {
            State::Reserved => panic!("a reserved order can be cancelled, and can expire"),
            State::Paying => Refusal::PaymentUnderWay,
            State::Paid => Refusal::AlreadyPaid,
            State::Expired => Refusal::AlreadyExpired,
            State::Cancelled => Refusal::AlreadyCancelled,
        }
    }

    #[test]
    fn a_state_is_read_as_it_is_written() {
        for state in State::ALL {
            assert_eq!(State::read(state.as_str()), Some(state));
        }
        assert_eq!(State::read("Reserved"), None);
    }
}
