//! Whether connections to the database are by TLS, and whom the server has to be. As its URL says, with the words of libpq:
//! `sslmode` and `sslrootcert`, or `PGSSLMODE` and `PGSSLROOTCERT`.

use crate::config::parameter;
use crate::tls::{self, Setting};
use sqlx::Error;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::env;
use std::path::Path;

/// What there is to change about TLS.
const SETTING: Setting = Setting { schemes: ["sslmode=verify-full", "sslmode=disable"], authority: "sslrootcert=FILE" };
const REMEDY: &str = "where the server has TLS, DATABASE_URL has sslmode=verify-full";
/// What libpq calls the system's authorities, from version 16 on; it goes with `verify-full` alone.
const SYSTEM: &str = "system";
const ANY_PUBLIC: &str = "with sslmode=verify-ca, any public certificate would do; write sslmode=verify-full";
/// No line of pg_hba.conf lets us in (invalid_authorization_specification).
const LET_IN_BY_NO_RULE: &str = "28000";

/// What the URL says, and what libpq makes of it where it says less.
pub(super) fn options(url: &str, options: PgConnectOptions) -> Result<PgConnectOptions, String> {
    let said = |names: &[&str], variable| parameter(url, names).or_else(|| env::var(variable).ok());
    let mut authority = said(&["sslrootcert", "ssl-root-cert", "ssl-ca"], "PGSSLROOTCERT");
    let mut options = options;
    if authority.take_if(|file| file == SYSTEM).is_some() {
        options = options.ssl_root_cert_from_pem(Vec::new()).ssl_mode(PgSslMode::VerifyFull);
    }
    if let Some(path) = &authority {
        // The library would only find out when it connects, and take it for an outage.
        tls::config(Some(Path::new(path))).map_err(|error| format!("{error}; sslrootcert names it"))?;
    }
    let is_asked_for = said(&["sslmode", "ssl-mode"], "PGSSLMODE").is_some();
    let is_local = tls::is_local(options.get_host());
    let mode = match options.get_ssl_mode() {
        _ if options.get_socket().is_some() => PgSslMode::Disable,
        PgSslMode::Prefer if is_local && !is_asked_for => PgSslMode::Disable,
        // The library trusts the system's authorities too: without a look at the name, any public certificate would do.
        PgSslMode::Require | PgSslMode::VerifyCa if authority.is_some() => PgSslMode::VerifyFull,
        PgSslMode::VerifyCa => return Err(ANY_PUBLIC.to_owned()),
        mode @ (PgSslMode::Disable
        | PgSslMode::Allow
        | PgSslMode::Prefer
        | PgSslMode::Require
        | PgSslMode::VerifyFull) => mode,
    };
    Ok(options.ssl_mode(mode))
}

/// Says that traffic may be read on its way, where it may.
pub(super) fn warn_of_plain(options: &PgConnectOptions) {
    let may_be = matches!(options.get_ssl_mode(), PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer);
    if may_be && options.get_socket().is_none() {
        tls::warn_of_plain("the database may be plain, or with whoever answers", options.get_host(), REMEDY);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_authority_is_trusted_the_name_is_looked_at_too() {
        let mode = |said: &str| {
            let url = format!("postgres://u@db.example.org/x?{said}");
            options(&url, url.parse().unwrap()).map(|options| options.get_ssl_mode())
        };
        for said in ["sslmode=verify-full", "sslrootcert=system", "sslmode=require&sslrootcert=system"] {
            assert!(matches!(mode(said), Ok(PgSslMode::VerifyFull)), "{said}");
        }
        assert!(matches!(mode("sslmode=require"), Ok(PgSslMode::Require)));
        assert_eq!(mode("sslmode=verify-ca").unwrap_err(), ANY_PUBLIC);
    }
}
