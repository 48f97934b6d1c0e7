//! Requests at the edge of what the contract allows get the same verdict whatever the strategy.

use crate::{answers, by, database, request, verdict, with_every_strategy};
use shared::messages::{Code, PurchaseRequest};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[tokio::test]
async fn a_deadline_is_any_time_that_rfc_3339_can_write_and_is_told_as_it_was_sent() {
    with_every_strategy(async |strategy| {
        let cases = [
            ("0000-01-01T00:00:00+23:59", Code::DeadlinePassed),
            ("0000-12-31T23:59:59Z", Code::DeadlinePassed),
            ("2020-01-01T12:00:00.123456789+02:00", Code::DeadlinePassed),
            ("2020-01-01T12:00:00.5Z", Code::DeadlinePassed),
            ("9999-12-31T23:59:59.999999999Z", Code::Reserved),
            ("9999-12-31T23:59:59-23:59", Code::Reserved),
        ];
        let until = |text| Some(OffsetDateTime::parse(text, &Rfc3339).unwrap());
        let asked = cases.iter().zip(0..);
        let asked: Vec<_> = asked
            .map(|((text, _), number)| PurchaseRequest { deadline: until(text), ..request(number, "a", 1) })
            .collect();
        let told = answers(&by(strategy, &database(&[("a", 2)]).await), &asked).await;
        for (told, (deadline, code)) in told.iter().map(verdict).zip(cases) {
            assert_eq!(told.code, code, "{strategy:?}: {deadline}");
            if code == Code::DeadlinePassed {
                assert_eq!(told.message, format!("The request's deadline, {deadline}, has passed."), "{strategy:?}");
            }
        }
    })
    .await;
}
