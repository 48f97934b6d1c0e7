//! TLS: whom we trust, and what keeps us from a server that speaks it otherwise than we do.
//!
//! Invariant: a server's name is checked, and its certificate is of an authority that we trust. (The database's is where its URL
//! says so, as everywhere with PostgreSQL.)

use crate::config::{Unusable, parameter};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a server that took a connection may take to answer in TLS, in seconds.
const SECONDS_MAX: u64 = 2;
const NO_AUTHORITIES: &str = "this machine has no authorities to trust (package ca-certificates; SSL_CERT_FILE)";

/// What an operator may have to change about a server.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// What its URL begins with where it speaks TLS, and where it does not.
    pub schemes: [&'static str; 2],
    /// What names the file of its authority.
    pub authority: &'static str,
}

/// The file of the authority that the URL names (`?cacertfile=`, as RabbitMQ's own clients have it), or else this one.
pub fn authority_of(url: &str, otherwise: Option<&Path>) -> Option<PathBuf> {
    parameter(url, &["cacertfile"]).map(PathBuf::from).or_else(|| otherwise.map(Path::to_owned))
}

/// Trusts the authorities in this file (PEM), and no others; without one, those of the system.
pub fn config(authority: Option<&Path>) -> Result<ClientConfig, Unusable> {
    Ok(trusting(trusted(authority)?))
}

fn trusting(authorities: RootCertStore) -> ClientConfig {
    ClientConfig::builder().with_root_certificates(authorities).with_no_client_auth()
}

fn trusted(authority: Option<&Path>) -> Result<RootCertStore, Unusable> {
    let mut trusted = RootCertStore::empty();
    match authority {
        Some(path) => {
            let add = |certificate: Result<CertificateDer<'_>, _>| -> Result<(), String> {
                let certificate = certificate.map_err(|error: rustls::pki_types::pem::Error| error.to_string())?;
                trusted.add(certificate).map_err(|error| error.to_string())
            };
            let read = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string());
            let added = read.and_then(|mut certificates| certificates.try_for_each(add));
            let unreadable =
                |reason| format!("the authority's certificate, {}, cannot be read: {reason}", path.display());
            added.map_err(|reason| Unusable(unreadable(reason)))?;
            if trusted.is_empty() {
                return Err(Unusable(unreadable("it has no certificate in PEM form".to_owned())));
            }
        }
        None => {
            trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(trusted)
}

/// How we speak TLS to one server.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// With the server of this name; see [`config`].
    pub fn with(host: &str, authority: Option<&Path>) -> Result<Self, Unusable> {
        let trusted = trusted(authority)?;
        if trusted.is_empty() {
            return Err(Unusable(NO_AUTHORITIES.to_owned()));
        }
        let unfit = |_| Unusable(format!("{host} is no name that a certificate can be for"));
        Ok(Self { config: Arc::new(trusting(trusted)), name: ServerName::try_from(host.to_owned()).map_err(unfit)? })
    }

    async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await
    }
}

/// A connection, with TLS or without.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

/// Begins to speak TLS on a connection, if so.
pub async fn over(stream: TcpStream, tls: Option<&Tls>) -> io::Result<Box<dyn Wire>> {
    Ok(match tls {
        Some(tls) => Box::new(tls.connect(stream).await?),
        None => Box::new(stream),
    })
}

/// What of TLS keeps us from a server that could not be used, in a sentence that says what to check; `None` where it is something
/// else, which may pass by itself. `tls` is how it was spoken to, if so.
pub async fn fault(host: &str, port: u16, tls: Option<&Tls>, setting: Setting) -> Option<String> {
    let limit = Duration::from_secs(SECONDS_MAX);
    let stream = timeout(limit, TcpStream::connect((host, port))).await.ok()?.ok()?;
    let [with, _] = setting.schemes;
    match tls {
        Some(tls) => {
            // Silence may be a server that is overloaded, or frozen.
            let refused = timeout(limit, tls.connect(stream)).await.ok()?.err()?;
            explain(&refused, setting).map(|reason| format!("{host}:{port}: {reason}"))
        }
        None => {
            // Whom it is signed by does not matter.
            let tls = Tls { config: Arc::new(trusting(RootCertStore::empty())), name: Ipv6Addr::LOCALHOST.into() };
            let refused = timeout(limit, tls.connect(stream)).await.ok()?.err()?;
            let is_tls = matches!(cause(&refused)?, Error::InvalidCertificate(_) | Error::AlertReceived(_));
            is_tls.then(|| format!("{host}:{port} speaks TLS alone; write {with}"))
        }
    }
}

/// What is wrong where a handshake failed for a reason that does not pass by itself.
pub(crate) fn explain(error: &io::Error, setting: Setting) -> Option<String> {
    use CertificateError as Wrong;
    let ([_, without], authority) = (setting.schemes, setting.authority);
    let error = cause(error)?;
    let Error::InvalidCertificate(wrong) = error else {
        let is_plain = matches!(error, Error::InvalidMessage(_));
        let plain = format!("it does not speak TLS; write {without}, or another port");
        return Some(if is_plain { plain } else { format!("TLS fails ({error})") });
    };
    let is_out_of_date = matches!(
        wrong,
        Wrong::Expired | Wrong::ExpiredContext { .. } | Wrong::NotValidYet | Wrong::NotValidYetContext { .. }
    );
    Some(if matches!(wrong, Wrong::UnknownIssuer) {
        format!("its certificate is of an authority that is not trusted; {authority} names the file of one that is")
    } else if matches!(wrong, Wrong::NotValidForNameContext { presented, .. } if presented.is_empty()) {
        "its certificate names no host (subjectAltName)".to_owned()
    } else if matches!(wrong, Wrong::NotValidForName | Wrong::NotValidForNameContext { .. }) {
        // It says which names these are.
        format!("its certificate is for another name ({wrong}); write that one")
    } else if is_out_of_date {
        format!("its certificate is not valid ({wrong}); renew it, or set this machine's clock")
    } else {
        let remedy = "make one of version 3, with subjectAltName, signed by the authority";
        format!("its certificate is not one for a server ({wrong}); {remedy}")
    })
}

fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Says that what we send to this host can be read on its way, unless there is none.
pub fn warn_of_plain(traffic: &str, host: &str, remedy: &str) {
    if !is_local(host) {
        tracing::warn!(host, "traffic to {traffic}: TLS is not asked for; {remedy}");
    }
}

/// Whether this host is this machine; also a folder with a Unix socket in it.
pub(crate) fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || host.starts_with('/') || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTING: Setting = Setting { schemes: ["amqps://", "amqp://"], authority: "AMQP_CA" };

    #[tokio::test]
    async fn a_server_that_is_silent_may_be_frozen_and_is_waited_for() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let tls = Tls { config: Arc::new(trusting(RootCertStore::empty())), name: Ipv6Addr::LOCALHOST.into() };
        for tls in [Some(&tls), None] {
            assert_eq!(fault("127.0.0.1", port, tls, SETTING).await, None);
        }
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_with_what_mends_it() {
        use CertificateError as Wrong;
        let for_no_name = Wrong::NotValidForNameContext { expected: Ipv6Addr::LOCALHOST.into(), presented: Vec::new() };
        for (wrong, hint) in [
            (Wrong::UnknownIssuer, "AMQP_CA names the file"),
            (Wrong::Expired, "set this machine's clock"),
            (Wrong::NotValidYet, "set this machine's clock"),
            (Wrong::BadEncoding, "make one of version 3"),
            (Wrong::InvalidPurpose, "make one of version 3"),
            (for_no_name, "names no host (subjectAltName)"),
            (Wrong::NotValidForName, "write that one"),
        ] {
            let error = io::Error::other(Error::InvalidCertificate(wrong));
            let said = explain(&error, SETTING).unwrap();
            assert!(said.contains(hint), "{said}");
        }
    }
}
