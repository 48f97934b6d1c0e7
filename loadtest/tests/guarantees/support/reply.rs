//! What a buyer gets.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::ShortString;
use serde_json::Value;
use serde_json::value::RawValue;

/// A reply as the buyer gets it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) correlation_id: String,
    pub(crate) body: String,
    pub(crate) verdict: Value,
    pub(crate) worker_id: String,
    pub(crate) properties: BasicProperties,
}

impl Reply {
    pub(crate) fn of(delivery: Delivery) -> Self {
        let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string).unwrap_or_default();
        Self {
            correlation_id: text(delivery.properties.correlation_id()),
            worker_id: text(delivery.properties.app_id()),
            verdict: serde_json::from_slice(&delivery.data).unwrap(),
            body: String::from_utf8(delivery.data).unwrap(),
            properties: delivery.properties,
        }
    }

    pub(crate) fn code(&self) -> &str {
        self.verdict["code"].as_str().unwrap()
    }

    /// What one message brings: one, or, to an array whose correlation id is the ids of its requests, one for each in order.
    pub(crate) fn all_of(delivery: Delivery) -> Vec<Self> {
        let all = Self::of(delivery);
        let verdicts = serde_json::from_str::<Vec<&RawValue>>(&all.body);
        let Some(verdicts) = verdicts.ok().filter(|_| all.correlation_id.contains(' ')) else { return vec![all] };
        let bodies: Vec<&str> = verdicts.iter().map(|verdict| verdict.get()).collect();
        assert_eq!(all.body, format!("[{}]", bodies.join(",")), "nothing stands between them");
        let ids: Vec<&str> = all.correlation_id.split(' ').collect();
        assert_eq!(ids.len(), bodies.len(), "one for each: {}", all.body);
        let one = |(id, body): (&str, &str)| {
            let verdict: Value = serde_json::from_str(body).unwrap();
            assert_eq!(verdict["request_id"], id, "each at its place");
            let (worker_id, properties) = (all.worker_id.clone(), all.properties.clone());
            Self { correlation_id: id.to_owned(), body: body.to_owned(), verdict, worker_id, properties }
        };
        ids.into_iter().zip(bodies).map(one).collect()
    }

    /// The id of the order that was made.
    pub(crate) fn order(&self) -> &str {
        self.verdict["order"]["id"].as_str().unwrap()
    }
}
