//! Whether connections to the database are by TLS, and whom the server has to be. As its URL says, with the words of libpq:
//! `sslmode` and `sslrootcert`, or `PGSSLMODE` and `PGSSLROOTCERT`.

use crate::{
    config::parameter,
    tls::{self, Setting},
};
use sqlx::{
    Error,
    postgres::{PgConnectOptions, PgSslMode},
};
use std::{env, path::Path};

/// What there is to change about TLS.
const SETTING: Setting = Setting { schemes: ["sslmode=verify-full", "sslmode=disable"], authority: "sslrootcert=FILE" };
const REMEDY: &str = "where the server has TLS, DATABASE_URL has sslmode=verify-full";
/// No line of pg_hba.conf lets us in (invalid_authorization_specification).
const LET_IN_BY_NO_RULE: &str = "28000";

/// What the URL says, and what libpq makes of it where it says less.
pub(super) fn options(url: &str, options: PgConnectOptions) -> Result<PgConnectOptions, String> {
    let said = |names: &[&str], variable| parameter(url, names).or_else(|| env::var(variable).ok());
    let authority = said(&["sslrootcert", "ssl-root-cert", "ssl-ca"], "PGSSLROOTCERT");
    if let Some(path) = &authority {
        // The library would only find out when it connects, and take it for an outage.
        tls::config(Some(Path::new(path))).map_err(|error| format!("{error}; sslrootcert names it"))?;
    }
    let is_asked_for = said(&["sslmode", "ssl-mode"], "PGSSLMODE").is_some();
    let mode = options.get_ssl_mode();
    let is_local = tls::is_local(options.get_host());
    let mode = if options.get_socket().is_some() || matches!(mode, PgSslMode::Prefer) && is_local && !is_asked_for {
        PgSslMode::Disable
    } else if matches!(mode, PgSslMode::Require) && authority.is_some() {
        PgSslMode::VerifyCa
    } else {
        mode
    };
    Ok(options.ssl_mode(mode))
}

/// Says that traffic may be read on its way, where it may.
pub(super) fn warn_of_plain(options: &PgConnectOptions) {
    let may_be = matches!(options.get_ssl_mode(), PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer);
    if may_be && options.get_socket().is_none() {
        tls::warn_of_plain("the database may be", options.get_host(), REMEDY);
    }
}

/// What of TLS keeps us from the server, in a sentence that says what to check.
pub(super) fn fault(error: &Error) -> Option<String> {
    if let Error::Io(error) = error {
        return tls::explain(error, SETTING);
    }
    if let Error::Tls(error) = error {
        return Some(format!("{error}; check sslmode"));
    }
    let error = error.as_database_error()?;
    let is_kept_out = error.code().as_deref() == Some(LET_IN_BY_NO_RULE);
    is_kept_out.then(|| format!("{error}; if it takes TLS alone, write sslmode=verify-full"))
}
