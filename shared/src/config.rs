//! Configuration: flags and environment variables, the same for every function, each explained by `--help`. A value comes
//! from the flag, else from the variable, else from the default shown. There is no file, but for what is secret.

mod files;

use clap::{Args, Parser, ValueEnum};
pub use files::read_line;
use percent_encoding::percent_decode_str;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The longest worker id, so that `turnstile-purchase ID` fits where PostgreSQL shows it.
const WORKER_ID_BYTES_MAX: usize = 40;

/// The command line of a function: what every function takes, and its own options.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "A Turnstile function: takes requests off its queues, decides them, replies.",
    after_help = "Start more of the same to scale out. SIGTERM and Ctrl-C drain: what is in hand is finished, \
                  answered and acknowledged, then the program exits with 0.\n\n\
                  Exit codes: 0 done, 2 usage, 69 a server is unreachable, 78 configuration."
)]
pub struct CommandLine<Options: Args> {
    /// What every function takes.
    #[command(flatten)]
    pub worker: WorkerOptions,
    /// The function's own.
    #[command(flatten)]
    pub function: Options,
}

/// What every function takes.
#[derive(Debug, Clone, Args)]
pub struct WorkerOptions {
    #[command(flatten)]
    pub broker: BrokerOptions,
    /// What this worker is called in RabbitMQ's connection list, in PostgreSQL's activity list, in logs and in replies.
    #[arg(long, env = "WORKER_ID", default_value_t = default_worker_id(), value_parser = worker_id)]
    pub worker_id: String,
    /// Users of the broker that act for all, with commas between them: the shop's own servers. They may cancel and pay for anybody's
    /// orders. Where this is set, even to nothing, others have replies sent to direct reply-to and to `reply.USER.NAME` alone, USER
    /// being their `user_id`.
    #[arg(long, env = "TRUSTED_USERS", value_delimiter = ',', value_name = "USER,…")]
    pub trusted_users: Option<Vec<String>>,
    /// Users of the broker that may send messages again for their senders, as `admin dead replay` does, with commas between them; and
    /// the workers' own.
    #[arg(long, env = "REPLAY_USERS", value_delimiter = ',', default_value = "operator", value_name = "USER,…")]
    pub replay_users: Vec<String>,
    /// The most requests decided in one go, which come in 500 messages at most; an array that has more is decided in one, too.
    #[arg(long, env = "BATCH_MAX", default_value_t = 2_000, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    pub batch_max: u16,
    /// How long to wait for the servers at the start, in seconds; after that, exit with 69.
    #[arg(long, env = "STARTUP_SECONDS_MAX", default_value_t = 30, value_name = "SECONDS")]
    pub startup_seconds_max: u64,
    /// Refuse requests that came by the default exchange, which RabbitMQ grants as a whole: whoever may cancel by it may restock.
    /// Without it, they are taken as before; purchases never are.
    #[arg(long, env = "REFUSE_DEFAULT_EXCHANGE")]
    pub refuse_default_exchange: bool,
    /// Whether a start may change the database's schema.
    #[arg(long, env = "MIGRATE", value_enum, default_value_t = Migrate::Auto)]
    pub migrate: Migrate,
    /// A file that exists while this worker consumes and makes progress, for a readiness probe.
    #[arg(long, env = "READY_FILE", value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Where to show metrics for Prometheus, over HTTP at /metrics: an address and a port, such as 127.0.0.1:9400. Without it,
    /// nothing listens.
    #[arg(long, env = "METRICS_ADDRESS", value_name = "ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
    /// What to log, such as `info`, `warn`, or `purchase=debug`. The AMQP library logs what it also returns to us, so
    /// unless asked for, it is silent.
    #[arg(long, env = "RUST_LOG", default_value = "info,lapin=off,sqlx=warn", value_name = "FILTER")]
    pub log: String,
    /// Log as JSON, one object a line.
    #[arg(long, env = "LOG_JSON")]
    pub log_json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Migrate {
    /// An older one is brought up to date, which its owner may; where there is nothing to do, everybody may.
    Auto,
    /// It has to be up to date: `admin migrate` does it.
    Never,
}

/// What everybody takes who speaks to the broker.
#[derive(Debug, Clone, Args)]
pub struct BrokerOptions {
    /// Where RabbitMQ is: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS, the virtual host `/` as %2f or left out. Of a cluster, one for
    /// each node, with commas between them (a comma within a URL is %2c): where a node is away, the next one is tried.
    #[arg(long, env = "AMQP_URL", default_value = "amqp://guest:guest@127.0.0.1:5672/%2f", hide_env_values = true)]
    pub amqp_url: String,
    /// A file with the certificate of the authority (PEM) that the broker's is of, for amqps://; without it, the system's authorities
    /// are trusted.
    #[arg(long, env = "AMQP_CA", value_name = "FILE")]
    pub amqp_ca: Option<PathBuf>,
}

/// What a function with a database takes.
#[derive(Debug, Clone, Args)]
pub struct StoreOptions {
    /// Where PostgreSQL is: postgres://USER:PASSWORD@HOST:PORT/DATABASE, or with ?host=/folder for a Unix socket. With
    /// ?sslmode=verify-full for TLS; the file of a private authority is named by &sslrootcert=FILE.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "postgres://postgres@127.0.0.1:5432/turnstile",
        hide_env_values = true
    )]
    pub database_url: String,
    /// The most connections to keep to the database.
    #[arg(long, env = "DATABASE_CONNECTIONS_MAX", default_value_t = 4, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub database_connections_max: u32,
}

impl WorkerOptions {
    /// What the servers' operators see of a worker of this function.
    pub fn name(&self, function: &str) -> String {
        format!("turnstile-{function} {}", self.worker_id)
    }

    /// Whether this user of the broker may act for all.
    pub fn trusts(&self, user: &str) -> bool {
        self.trusted_users.iter().flatten().any(|trusted| trusted == user)
    }
}

/// An option, or several together, that no program could run with; the text says which, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// What else can be said of a URL that [`check_url`] lets pass, and that cannot be read.
pub const UNREADABLE_URL: &str = "its user, password, host, port or parameters cannot be read";

/// What is said of a database's URL that leaves to us which of several servers takes writes.
pub(crate) const ONE_HOST: &str = "several hosts, and target_session_attrs, do not work: name one host, by an address that \
     always leads to the server that takes writes";

/// Whether this can be a URL of one of these schemes, or what is wrong with it. To be asked before anybody reads it, and answered
/// in words of our own: those of others repeat what was given, and connecting to what an unescaped password was taken for would
/// name it, too.
pub fn check_url(url: &str, schemes: &[&str]) -> Result<(), &'static str> {
    if url.starts_with(['"', '\'']) {
        return Err("it begins with a quotation mark, which does not belong to it");
    }
    if url.starts_with("jdbc:") {
        return Err("it is Java's: leave `jdbc:` out, and write user and password in front of the host");
    }
    let (scheme, rest) = url.split_once("://").ok_or("it does not begin with a scheme and ://")?;
    if !schemes.contains(&scheme) {
        return Err(match scheme {
            "amqp" | "amqps" => "it leads to RabbitMQ",
            "postgres" | "postgresql" => "it leads to PostgreSQL",
            "redis" | "valkey" | "rediss" | "valkeys" => "it leads to Redis",
            "http" | "https" => "it leads to a web server",
            _ => "it has another scheme",
        });
    }
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let is_escape = |text: &str| text.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if rest.contains('#') {
        return Err("it has a #, which is written %23");
    }
    if behind.contains('@') {
        return Err(
            "it has an @ behind its host, which is written %40; or in its password, a / is not written %2F, a ? \
                    not %3F, or a \\ not %5C",
        );
    }
    if !rest.split('%').skip(1).all(is_escape) {
        return Err("it has a % without two hexadecimal digits behind it, which is written %25");
    }
    if host.contains(',') {
        return Err(ONE_HOST);
    }
    Ok(())
}

/// The same for Redis.
pub fn check_redis_url(url: &str) -> Result<(), Unusable> {
    let schemes = ["redis", "valkey", "rediss", "valkeys", "redis+unix", "valkey+unix", "unix"];
    check_url(url, &schemes).map_err(unusable_redis_url)
}

pub fn unusable_redis_url(reason: &str) -> Unusable {
    let form = "redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, or redis+unix:///path for a Unix socket";
    Unusable(format!("REDIS_URL cannot be read ({reason}); it has the form {form}"))
}

/// The value of the parameter that a URL gives by any of these names, after its `?`.
pub(crate) fn parameter(url: &str, names: &[&str]) -> Option<String> {
    let mut pairs = url.split_once('?')?.1.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| names.contains(name))?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// PostgreSQL cuts names at 63 bytes, RabbitMQ refuses them above 255.
fn worker_id(text: &str) -> Result<String, String> {
    if crate::messages::is_id(text) && text.len() <= WORKER_ID_BYTES_MAX {
        return Ok(text.to_owned());
    }
    Err(format!("a worker id matches [A-Za-z0-9._:-]{{1,{WORKER_ID_BYTES_MAX}}}"))
}

/// The process id tells two workers of one machine apart, the host's name two machines.
fn default_worker_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_alphanumeric).take(24).collect();
    format!("{}-{}", if host.is_empty() { "worker" } else { &host }, std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_that_is_none_it_is_said_what_is_wrong() {
        for (url, reason) in [
            ("jdbc:postgresql://host/shop?user=u&password=p", "leave `jdbc:` out"),
            ("\"postgres://host/shop\"", "quotation mark"),
            ("host=h password=p", "does not begin with a scheme"),
            ("amqp://host/%2f", "leads to RabbitMQ"),
            ("redis://host", "leads to Redis"),
            ("https://host", "leads to a web server"),
            ("postgresql+psycopg://host/shop", "another scheme"),
            ("postgres://u:p#w@host/shop", "#, which is written %23"),
            ("postgres://u:p/w@host/shop", "a / is not written %2F"),
            ("postgres://u:p?w@host/shop", "a ? not %3F"),
            ("postgres://u:p\\w@host/shop", "a \\ not %5C"),
            ("postgres://u:p%w@host/shop", "which is written %25"),
            ("postgres://u:p@host/shop%2", "which is written %25"),
            ("postgres://a:1,b:2/shop", "name one host"),
            ("postgres://u:p,w@a,b/shop", "name one host"),
        ] {
            let said = check_url(url, &["postgres", "postgresql"]).unwrap_err();
            assert!(said.contains(reason), "{url}: {said}");
        }
        for well in ["postgres://u:p@ss,%25:w@[::1]:1/shop", "postgresql://", "postgres://h?host=/a,b&password=p,w"] {
            assert_eq!(check_url(well, &["postgres", "postgresql"]), Ok(()), "{well}");
        }
    }
}
