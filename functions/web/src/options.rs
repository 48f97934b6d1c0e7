//! What can be said on the command line.

use axum::http::{HeaderName, HeaderValue};
use clap::{Args, value_parser};
use shared::config::StoreOptions;
use std::net::SocketAddr;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) store: StoreOptions,
    /// Where to listen: an address and a port.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// A header in which a proxy that is trusted names the buyer. Without it, the body's buyer is believed: for networks that you trust.
    #[arg(long, env = "BUYER_HEADER", value_name = "NAME")]
    pub(crate) buyer_header: Option<HeaderName>,
    /// What the payment gateway signs webhooks with: whsec_ and base64. Without it, none are taken.
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub(crate) webhook_secret: Option<String>,
    /// Origins whose pages may ask, with commas between them, such as https://shop.example. Without it, pages of this door's own alone.
    #[arg(long, env = "CORS_ORIGIN", value_delimiter = ',', value_name = "ORIGIN,…", value_parser = origin)]
    pub(crate) cors_origin: Vec<HeaderValue>,
    /// The most connections open at one time; more are told to come again.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 30_000, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections_max: u32,
    /// The most requests open at one time; more are told to come again.
    #[arg(long, env = "REQUESTS_MAX", default_value_t = 30_000, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) requests_max: u32,
    /// The most streams of events open at one time; more are told to come again.
    #[arg(long, env = "STREAMS_MAX", default_value_t = 20_000, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) streams_max: u32,
    /// The most requests that are kept in memory until they are decided. From four fifths on, the oldest are left to the queue, which has
    /// them; their clients get 202.
    #[arg(long, env = "UNDECIDED_MAX", default_value_t = 60_000, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) undecided_max: u32,
}

/// Whether an option can name this origin: a scheme and a host, as browsers write them.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_origin = !host.is_empty()
        && !host.contains(['/', '*', '?', '#', '@'])
        && !host.bytes().any(|byte| byte.is_ascii_uppercase());
    HeaderValue::from_str(text)
        .ok()
        .filter(|_| is_origin)
        .ok_or_else(|| "an origin is such as https://shop.example, without a path".to_owned())
}
