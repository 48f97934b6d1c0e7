//! What can go wrong while a batch is handled, and what becomes of the batch: one exhaustive mapping.
//!
//! Invariant: nothing that may concern every message ever sends a message to `dead`; that is for faults of one message alone.

/// Why a handler could not answer a batch. In all cases but the last one, what was delivered is kept, and tried again: no
/// message is burnt, the order stays. In the last one, each message is handled alone, and what fails alone goes to `dead`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server that every batch needs cannot be reached, is starting, is stopping, or is out of room; which one, and why.
    #[error("{0}")]
    Away(String),
    /// It answers, but cannot do what every batch needs: no schema, no permission, read only; which one, and why.
    #[error("{0}")]
    Unfit(String),
    /// A row that some of the batch need may be at fault: locked by somebody else, refused by a trigger or a constraint,
    /// unreadable. [`crate::isolation`] has the others go on.
    #[error("a row cannot be had: {0}")]
    Row(String),
    /// The batch cannot be handled as it is; one of its messages is at fault.
    #[error("the batch cannot be handled: {0}")]
    Unhandled(String),
}

/// What a database state (SQLSTATE) means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlStateClass {
    /// Somebody else was first: read again, decide again.
    Conflict,
    /// See [`Error::Away`].
    Away,
    /// See [`Error::Unfit`].
    Unfit,
    /// See [`Error::Row`].
    Row,
    /// See [`Error::Unhandled`].
    Unhandled,
}

/// Classifies a state by <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub fn classify(sql_state: &str) -> SqlStateClass {
    match sql_state {
        // unique_violation is how a request id that another worker records at the same instant shows itself;
        // serialization_failure and deadlock_detected are races by definition.
        "23505" | "40001" | "40P01" => SqlStateClass::Conflict,
        // lock_not_available, query_canceled (it took too long), io_error.
        "55P03" | "57014" | "58030" => SqlStateClass::Row,
        // Constraints, what triggers raise, internal errors (a page or an index that is broken).
        state if ["23", "P0", "XX"].iter().any(|class| state.starts_with(class)) => SqlStateClass::Row,
        state if state.starts_with("22") => SqlStateClass::Unhandled,
        // Its own limits have ended the transaction while we stood still: idle_in_transaction_session_timeout, transaction_timeout.
        "25P03" | "25P04" => SqlStateClass::Away,
        // Connection exceptions, insufficient resources, operator intervention (shutdown, still starting), system
        // errors, and a transaction that another session's trouble rolled back.
        state if ["08", "53", "57", "58", "40"].iter().any(|class| state.starts_with(class)) => SqlStateClass::Away,
        _ => SqlStateClass::Unfit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_belongs_to_the_smallest_thing_that_may_have_it() {
        let cases = [
            ("23505", SqlStateClass::Conflict),  // unique_violation
            ("40P01", SqlStateClass::Conflict),  // deadlock_detected
            ("22021", SqlStateClass::Unhandled), // character_not_in_repertoire
            ("23514", SqlStateClass::Row),       // check_violation
            ("55P03", SqlStateClass::Row),       // lock_not_available
            ("57014", SqlStateClass::Row),       // query_canceled
            ("58030", SqlStateClass::Row),       // io_error
            ("P0001", SqlStateClass::Row),       // raise_exception
            ("XX001", SqlStateClass::Row),       // data_corrupted
            ("XX002", SqlStateClass::Row),       // index_corrupted
            ("57P01", SqlStateClass::Away),      // admin_shutdown
            ("57P03", SqlStateClass::Away),      // cannot_connect_now
            ("53100", SqlStateClass::Away),      // disk_full
            ("08006", SqlStateClass::Away),      // connection_failure
            ("25P03", SqlStateClass::Away),      // idle_in_transaction_session_timeout
            ("25P04", SqlStateClass::Away),      // transaction_timeout
            ("42P01", SqlStateClass::Unfit),     // undefined_table
            ("42501", SqlStateClass::Unfit),     // insufficient_privilege
            ("25006", SqlStateClass::Unfit),     // read_only_sql_transaction
        ];
        for (state, class) in cases {
            assert_eq!(classify(state), class, "{state}");
        }
    }
}
