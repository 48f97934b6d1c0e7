//! An order's life, as a state machine: which cause leads from which state to which. Pure.
//!
//! Invariant: an order ends at most once. From `paid`, `expired` and `cancelled` nothing leads anywhere, so what a
//! reserved order holds is given back once, or never; and only an order that is being paid for can become paid.

pub mod store;

/// Where an order stands. Units are held in the first two, sold in the third, and on sale again in the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Reserved,
    Paying,
    Paid,
    Expired,
    Cancelled,
}

/// What moves an order on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// `hold_until` has passed.
    HoldPassed,
    /// Its buyer, or the shop, no longer wants it.
    Cancel,
    /// The gateway is about to be asked.
    PaymentBegun,
    PaymentCaptured,
    /// The gateway took nothing; what is left of its hold is the buyer's.
    PaymentDeclined,
    /// The gateway did not decide in time, took nothing, and never will under this order's key: so the hold ends, too.
    PaymentVoided,
}

/// Why a cause changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    AlreadyCancelled,
    AlreadyExpired,
    AlreadyPaid,
    /// How it ends is not known yet.
    PaymentUnderWay,
    /// So there is no outcome of a payment.
    NoPaymentUnderWay,
}

impl State {
    pub const ALL: [Self; 5] = [Self::Reserved, Self::Paying, Self::Paid, Self::Expired, Self::Cancelled];

    /// The state that `cause` leads to, or why it leads nowhere and the order stays as it is.
    pub fn after(self, cause: Cause) -> Result<Self, Refusal> {
        match (self, cause) {
            (Self::Reserved, Cause::HoldPassed) => Ok(Self::Expired),
            (Self::Reserved, Cause::Cancel) => Ok(Self::Cancelled),
            (Self::Reserved, Cause::PaymentBegun) => Ok(Self::Paying),
            (Self::Reserved, Cause::PaymentCaptured | Cause::PaymentDeclined | Cause::PaymentVoided) => {
                Err(Refusal::NoPaymentUnderWay)
            }
            (Self::Paying, Cause::PaymentCaptured) => Ok(Self::Paid),
            (Self::Paying, Cause::PaymentDeclined) => Ok(Self::Reserved),
            (Self::Paying, Cause::PaymentVoided) => Ok(Self::Expired),
            (Self::Paying, Cause::HoldPassed | Cause::Cancel | Cause::PaymentBegun) => Err(Refusal::PaymentUnderWay),
            // From here nothing leads anywhere, whatever it is.
            (Self::Paid, _) => Err(Refusal::AlreadyPaid),
            (Self::Expired, _) => Err(Refusal::AlreadyExpired),
            (Self::Cancelled, _) => Err(Refusal::AlreadyCancelled),
        }
    }

    /// Whether its order keeps units from others that are not sold.
    pub fn holds_units(self) -> bool {
        match self {
            Self::Reserved | Self::Paying => true,
            Self::Paid | Self::Expired | Self::Cancelled => false,
        }
    }

    /// The word used in the database.
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
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl Cause {
    pub const ALL: [Self; 6] = [
        Self::HoldPassed,
        Self::Cancel,
        Self::PaymentBegun,
        Self::PaymentCaptured,
        Self::PaymentDeclined,
        Self::PaymentVoided,
    ];

    /// The word used in the database: what caused a transition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HoldPassed => "hold_passed",
            Self::Cancel => "cancel",
            Self::PaymentBegun => "payment_begun",
            Self::PaymentCaptured => "payment_captured",
            Self::PaymentDeclined => "payment_declined",
            Self::PaymentVoided => "payment_voided",
        }
    }

    /// The one state that it leads from, and where it leads.
    pub fn transition(self) -> (State, State) {
        let transition = |from: State| Some((from, from.after(self).ok()?));
        State::ALL.into_iter().find_map(transition).expect("each cause leads somewhere")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    proptest! {
        #[test]
        fn whatever_happens_an_order_ends_once_and_its_units_go_back_at_most_once(
            start in select(&State::ALL[..]),
            causes in prop::collection::vec(select(&Cause::ALL[..]), 0..30),
        ) {
            let (mut state, mut ends, mut given_back) = (start, 0, 0);
            for cause in causes {
                match state.after(cause) {
                    Ok(next) => {
                        prop_assert!(state.holds_units(), "nothing leads out of {state:?}");
                        ends += u32::from(!next.holds_units());
                        given_back += u32::from(matches!(next, State::Expired | State::Cancelled));
                        prop_assert!(next != State::Paid || state == State::Paying, "{state:?} was not being paid for");
                        state = next;
                    }
                    Err(refusal) => {
                        let reason = match state {
                            State::Reserved => Refusal::NoPaymentUnderWay,
                            State::Paying => Refusal::PaymentUnderWay,
                            State::Paid => Refusal::AlreadyPaid,
                            State::Expired => Refusal::AlreadyExpired,
                            State::Cancelled => Refusal::AlreadyCancelled,
                        };
                        prop_assert_eq!(refusal, reason, "the reason is the state");
                    }
                }
            }
            prop_assert!(ends <= 1 && given_back <= 1);
            prop_assert_eq!(ends == 1, start.holds_units() && !state.holds_units());
        }
    }

    #[test]
    fn a_cause_leads_from_one_state_only_and_a_state_is_read_as_it_is_written() {
        for cause in Cause::ALL {
            let leads = |from: &State| from.after(cause).is_ok();
            assert_eq!(State::ALL.into_iter().filter(leads).collect::<Vec<_>>(), [cause.transition().0]);
        }
        assert!(State::ALL.into_iter().all(|state| State::read(state.as_str()) == Some(state)));
        assert_eq!(State::read("Reserved"), None);
    }
}
