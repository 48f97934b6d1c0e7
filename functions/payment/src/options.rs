//! The payment function's own options, and the gateway that they choose.

use crate::gateway::{Gateway, Http, HttpOptions, Simulated, SimulatedOptions};
use clap::{Args, ValueEnum};
use shared::config::{StoreOptions, Unusable};
use std::sync::Arc;

/// The payment function's own options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
    /// Which payment gateway to ask. There is no default: a forgotten setting must not give goods away.
    #[arg(long = "gateway", env = "GATEWAY", value_enum, value_name = "KIND")]
    pub kind: Option<GatewayKind>,
    /// The one over HTTP.
    #[command(flatten)]
    pub http: HttpOptions,
    /// The simulated one.
    #[command(flatten)]
    pub simulated: SimulatedOptions,
    /// A payment that nobody has asked the gateway about for so long has lost its message (its queue was purged, say), and
    /// is taken up again, in seconds. Longer than a message waits in its queue.
    #[arg(long = "payment-lost-seconds", env = "PAYMENT_LOST_SECONDS", default_value_t = 300, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub lost_seconds: u32,
}

/// The kinds of gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GatewayKind {
    /// Moves no money: for demos, tests and measurements
    Simulated,
    /// The one at --gateway-url
    Http,
}

impl Options {
    /// The gateway.
    ///
    /// # Errors
    /// None is chosen, or the chosen one cannot be used.
    pub fn gateway(&self) -> Result<Arc<dyn Gateway>, Unusable> {
        match self.kind {
            None => Err(Unusable(
                "no payment gateway is chosen: set GATEWAY=http and GATEWAY_URL, or GATEWAY=simulated to move no money"
                    .to_owned(),
            )),
            Some(GatewayKind::Http) => Ok(Arc::new(Http::new(&self.http)?)),
            Some(GatewayKind::Simulated) => {
                tracing::warn!("the payment gateway is simulated: orders become paid, and no money moves");
                Ok(Arc::new(Simulated::new(self.simulated)))
            }
        }
    }
}
