//! A gateway over HTTP: JSON, the key in `Idempotency-Key`.
//!
//! The protocol stands in functions/README.md; what it says of neither outcome nor trouble ([`no_outcome`]) means that one
//! of us is not set up as the other believes.
//!
//! Invariants: one request is one attempt, redirects are not followed; an answer counts only when all of it is here and
//! reads as above; and nothing waits, or grows, without a limit.

use super::{Charge, Gateway, Outcome, Unknown};
use clap::Args;
use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use shared::config::{UNREADABLE_URL, Unusable, check_url};
use shared::messages::{is_id, reason_of};
use shared::tls::{self, Setting, Tls};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// The header that carries the key.
const KEY_HEADER: &str = "Idempotency-Key";
/// The most connections that are kept open while they have nothing to do.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// How long an idle connection is kept: less than servers and balancers commonly do, so that few asks meet a closed one.
const IDLE_SECONDS_MAX: u64 = 30;
/// How long connecting may take, in milliseconds; it counts towards the attempt.
const CONNECT_MS_MAX: u64 = 2_000;
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// What there is to change about TLS.
const SETTING: Setting = Setting { schemes: ["https://", "http://"], authority: "--gateway-ca FILE (GATEWAY_CA)" };

/// Where the gateway is.
#[derive(Debug, Clone, Args)]
pub struct HttpOptions {
    /// Where the payment gateway is, for `--gateway http`: https://HOST/PATH. It is asked at URL/charges, URL/voids and
    /// URL/refunds.
    #[arg(long = "gateway-url", env = "GATEWAY_URL", hide_env_values = true, value_name = "URL")]
    pub url: Option<String>,
    /// What the gateway knows us by, sent as `Authorization: Bearer TOKEN`. Better given by the variable: others can read
    /// a command line.
    #[arg(long = "gateway-token", env = "GATEWAY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// A file with the certificate of the authority (PEM) that the gateway's is of; without it, the system's authorities are trusted.
    #[arg(long = "gateway-ca", env = "GATEWAY_CA", value_name = "FILE")]
    pub authority: Option<PathBuf>,
    /// How long an attempt may take until the gateway is asked again, with the same key, in milliseconds.
    #[arg(long = "gateway-timeout-ms", env = "GATEWAY_TIMEOUT_MS", default_value_t = 3_000, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub timeout_ms: u64,
    /// The statuses by which the gateway says that it takes no such charge, whenever it is asked, with commas between them: a
    /// decline, where it is asked for the first time. With none (""), such payments wait for an operator, or their time.
    #[arg(long = "gateway-decline-statuses", env = "GATEWAY_DECLINE_STATUSES", default_value = "400,404,422")]
    #[arg(value_name = "STATUS,…")]
    pub decline_statuses: String,
}

/// A gateway over HTTP.
#[derive(Debug)]
pub struct Http {
    client: Client,
    /// Without a slash at its end.
    base: String,
    decline_statuses: Vec<StatusCode>,
}

impl Http {
    /// The gateway that the options name; nothing is sent yet.
    pub fn new(options: &HttpOptions) -> Result<Self, Unusable> {
        let unusable = |text: String| Unusable(format!("the payment gateway cannot be used: {text}"));
        let url = options.url.as_deref().ok_or_else(|| unusable("GATEWAY_URL is not set".to_owned()))?;
        let base = read_url(url).map_err(|reason| unusable(format!("GATEWAY_URL {reason}")))?;
        let decline_statuses = read_statuses(&options.decline_statuses).map_err(unusable)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &options.token {
            let unsendable = |_| unusable("GATEWAY_TOKEN has characters that a header cannot carry".to_owned());
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(unsendable)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let authority = options.authority.as_deref();
        let trusting = tls::config(authority).map_err(|error| unusable(format!("{error}; GATEWAY_CA names it")))?;
        let client = Client::builder()
            .default_headers(headers)
            .tls_backend_preconfigured(trusting)
            .redirect(Policy::none())
            .timeout(Duration::from_millis(options.timeout_ms))
            .connect_timeout(Duration::from_millis(CONNECT_MS_MAX.min(options.timeout_ms)))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(Duration::from_secs(IDLE_SECONDS_MAX))
            .user_agent(concat!("turnstile-payment/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| unusable(chain(error)))?;
        Ok(Self { client, base, decline_statuses })
    }

    /// Finds out what a gateway that is there could never be asked for, as far as TLS goes. One that is away is no matter yet.
    pub async fn check(&self, options: &HttpOptions) -> Result<(), Unusable> {
        let url = Url::parse(&self.base).map_err(|_| Unusable(UNREADABLE_URL.to_owned()))?;
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let host = host.trim_matches(['[', ']']);
        let tls = match url.scheme() {
            "https" => Some(Tls::with(host, options.authority.as_deref())?),
            _ => {
                tls::warn_of_plain("the payment gateway is plain", host, "where it has TLS, GATEWAY_URL is https://…");
                None
            }
        };
        match tls::fault(host, port, tls.as_ref(), SETTING).await {
            Some(fault) => Err(Unusable(format!("the payment gateway cannot be used: {fault}"))),
            None => Ok(()),
        }
    }

    /// The answer to one request: its status, and all of its body.
    async fn post(&self, name: &str, key: Uuid, body: &impl Serialize) -> Result<(StatusCode, Vec<u8>), Unknown> {
        let request = self.client.post(format!("{}/{name}", self.base)).header(KEY_HEADER, key.to_string()).json(body);
        let mut response = request.send().await.map_err(away)?;
        Ok((response.status(), read(&mut response).await?))
    }
}

impl Gateway for Http {
    fn charge<'a>(&'a self, charge: &'a Charge) -> BoxFuture<'a, Result<Outcome, Unknown>> {
        Box::pin(async {
            let (status, body) = self.post("charges", charge.order_id, charge).await?;
            match status {
                StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::PAYMENT_REQUIRED => {
                    read_outcome(status, &body)
                }
                other if self.decline_statuses.contains(&other) => Err(unacceptable(other, &body)),
                other => Err(no_outcome(other)),
            }
        })
    }

    fn void(&self, order_id: Uuid) -> BoxFuture<'_, Result<Outcome, Unknown>> {
        Box::pin(async move {
            let body = serde_json::json!({ "order_id": order_id });
            let (status, body) = self.post("voids", order_id, &body).await?;
            match status {
                StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => match read_outcome(status, &body)? {
                    Outcome::Declined { .. } => Err(Unknown::Refused(format!("{status}, but a void is not declined"))),
                    outcome @ (Outcome::Captured { .. } | Outcome::Voided) => Ok(outcome),
                },
                other => Err(no_outcome(other)),
            }
        })
    }

    fn refund(&self, order_id: Uuid) -> BoxFuture<'_, Result<(), Unknown>> {
        Box::pin(async move {
            let body = serde_json::json!({ "order_id": order_id });
            let (status, _) = self.post("refunds", order_id, &body).await?;
            if status.is_success() { Ok(()) } else { Err(no_outcome(status)) }
        })
    }
}

/// An answer to a charge or a void, as it is on the wire; unknown fields are ignored.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Said {
    Captured { charge_id: String },
    Declined { reason: Option<String> },
    Voided,
    Pending,
    RequiresAction,
}

fn read_outcome(status: StatusCode, body: &[u8]) -> Result<Outcome, Unknown> {
    let unreadable = |what: &str| Unknown::Refused(format!("{status}, but {what}"));
    match serde_json::from_slice(body) {
        Ok(Said::Pending) => Err(Unknown::Pending("pending".to_owned())),
        Ok(Said::RequiresAction) => Err(Unknown::Pending("requires_action".to_owned())),
        // By its own meaning, whatever else is in the body.
        Ok(Said::Captured { .. } | Said::Declined { .. } | Said::Voided) | Err(_) if status == StatusCode::ACCEPTED => {
            Err(Unknown::Pending(status.to_string()))
        }
        Ok(Said::Captured { .. } | Said::Voided) if status == StatusCode::PAYMENT_REQUIRED => {
            Err(unreadable("the body says otherwise"))
        }
        Ok(Said::Voided) => Ok(Outcome::Voided),
        Ok(Said::Captured { charge_id }) if is_id(&charge_id) => Ok(Outcome::Captured { charge_id }),
        Ok(Said::Captured { .. }) => Err(unreadable("the charge_id does not match [A-Za-z0-9._:-]{1,128}")),
        Ok(Said::Declined { reason }) => Ok(Outcome::Declined { reason: reason_of(&reason.unwrap_or_default()) }),
        Err(error) => Err(unreadable(&format!("the body is no answer ({error})"))),
    }
}

/// What it says of a charge that it does not take.
fn unacceptable(status: StatusCode, body: &[u8]) -> Unknown {
    let reason = match serde_json::from_slice(body) {
        Ok(Said::Declined { reason: Some(reason) }) => reason_of(&reason),
        Ok(Said::Captured { .. }) => return Unknown::Refused(format!("{status}, but the body says otherwise")),
        Ok(Said::Declined { reason: None } | Said::Voided | Said::Pending | Said::RequiresAction) | Err(_) => {
            format!("the gateway says {status}")
        }
    };
    Unknown::Unacceptable(reason)
}

fn no_outcome(status: StatusCode) -> Unknown {
    let is_busy = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    );
    if is_busy || status.is_server_error() {
        Unknown::Away(status.to_string())
    } else {
        Unknown::Refused(status.to_string())
    }
}

async fn read(response: &mut Response) -> Result<Vec<u8>, Unknown> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(away)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Unknown::Refused(format!("the answer has more than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn read_url(text: &str) -> Result<String, String> {
    let url = check_url(text, &["http", "https"]).and_then(|()| Url::parse(text).map_err(|_| UNREADABLE_URL));
    let url = url.map_err(|reason| format!("is not of the form https://HOST/PATH: {reason}"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("has more than scheme, host, port and path; a token goes into GATEWAY_TOKEN".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn read_statuses(text: &str) -> Result<Vec<StatusCode>, String> {
    let read = |word: &str| {
        let status = word.trim().parse().ok().filter(StatusCode::is_client_error);
        status.ok_or_else(|| format!("GATEWAY_DECLINE_STATUSES has {word}, which is none of 400 to 499"))
    };
    text.split(',').filter(|word| !word.trim().is_empty()).map(read).collect()
}

fn away(error: reqwest::Error) -> Unknown {
    Unknown::Away(chain(error))
}

/// What an error says, and what its causes say: "error sending request" alone helps nobody. Not where to, which is known, and may
/// have a secret in its path.
fn chain(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::from(error.without_url()))
}
