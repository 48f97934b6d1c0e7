//! What is said of orders that cannot be paid for, and of their units.

use shared::messages::Code;
use shared::order::Refusal;
use shared::order::store::Order;
use uuid::Uuid;

/// Why an order cannot be paid for, for programs and for people.
pub(super) fn refused(id: Uuid, refusal: Refusal) -> (Code, String) {
    match refusal {
        Refusal::AlreadyCancelled => (Code::AlreadyCancelled, format!("The order {id} was cancelled before.")),
        Refusal::AlreadyExpired => {
            (Code::AlreadyExpired, format!("The hold of the order {id} ran out before; nothing is charged."))
        }
        Refusal::AlreadyPaid => (Code::AlreadyPaid, format!("The order {id} is paid for.")),
        Refusal::PaymentUnderWay => {
            (Code::PaymentUnderWay, format!("The order {id} is being paid for, by another request."))
        }
        Refusal::NoPaymentUnderWay => (Code::Declined, format!("The payment of the order {id} has ended before.")),
    }
}

pub(super) fn unknown(id: Uuid) -> (Code, String) {
    (Code::UnknownOrder, format!("There is no order {id}."))
}

pub(super) fn units_are(Order { quantity, item, .. }: &Order) -> String {
    let (units, are) = if *quantity == 1 { ("unit", "is") } else { ("units", "are") };
    format!("{quantity} {units} of {item} {are}")
}
