//! Requests at the edge of what the contract allows get the same verdict whatever the strategy.

use crate::{answers, by, database, request, verdict, with_every_strategy};
use shared::contract::{Code, PurchaseRequest};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[tokio::test]
async fn a_deadline_is_any_time_that_rfc_3339_can_write_and_is_told_as_it_was_sent() {
    with_every_strategy(async |strategy| {
        for (deadline, code) in [
            ("0000-01-01T00:00:00+23:59", Code::DeadlinePassed),
            ("0000-12-31T23:59:59Z", Code::DeadlinePassed),
            ("2020-01-01T12:00:00.123456789+02:00", Code::DeadlinePassed),
            ("2020-01-01T12:00:00.5Z", Code::DeadlinePassed),
            ("9999-12-31T23:59:59.999999999Z", Code::Reserved),
            ("9999-12-31T23:59:59-23:59", Code::Reserved),
        ] {
            let pool = database(&[("a", 1)]).await;
            let asked = PurchaseRequest {
                deadline: Some(OffsetDateTime::parse(deadline, &Rfc3339).unwrap()),
                ..request(1, "a", 1)
            };
            let told = verdict(&answers(&by(strategy, &pool), &[asked]).await[0]);
            assert_eq!(told.code, code, "{strategy:?}: {deadline}");
            if code == Code::DeadlinePassed {
                assert_eq!(told.message, format!("The request's deadline, {deadline}, has passed."), "{strategy:?}");
            }
        }
    })
    .await;
}
