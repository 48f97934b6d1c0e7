//! An authority of our own, made when it is needed, and certificates of it: private servers that speak TLS alone have them.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What private servers are called.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];
/// A certificate, and its key, in the folder of its server.
const CERTIFICATE: [&str; 2] = ["server.pem", "server.key"];
/// What a client of PostgreSQL says before it speaks TLS, and what it is answered.
const SSL_REQUEST_BYTES: usize = 8;
const SSL_REQUEST_TAKEN: u8 = b'S';

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Authority({})", self.file.display())
    }
}

impl Authority {
    /// Puts its own certificate into this file.
    pub fn create(file: PathBuf) -> Result<Self> {
        let (key, mut params) = (KeyPair::generate()?, CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", file.display()));
        fs::write(&file, params.self_signed(&key)?.pem()).with_context(|| format!("write {}", file.display()))?;
        Ok(Self { issuer: Issuer::new(params, key), file })
    }

    /// Where its own certificate is.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A certificate for these names, until then, and its key; both PEM.
    fn sign(&self, names: &[&str], until: Option<OffsetDateTime>) -> Result<[String; 2]> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (key, mut params) = (KeyPair::generate()?, CertificateParams::new(names)?);
        params.not_after = until.unwrap_or(params.not_after);
        Ok([params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()])
    }

    /// Puts a certificate of a private server, and its key, into this folder of its owner.
    pub(super) fn certify(&self, home: &Path, owner: Option<(u32, u32)>) -> Result<[PathBuf; 2]> {
        let paths = CERTIFICATE.map(|name| home.join(name));
        for (path, text) in paths.iter().zip(self.sign(&NAMES, None)?) {
            fs::write(path, text)?;
            // Servers insist that nobody else can read a key.
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            owner.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))?;
        }
        Ok(paths)
    }

    /// What has a node of RabbitMQ listen by TLS alone.
    pub(super) fn rabbitmq_settings(&self, home: &Path, port: u16) -> String {
        let (file, [certificate, key]) = (self.file.display(), CERTIFICATE.map(|name| home.join(name)));
        let (certificate, key) = (certificate.display(), key.display());
        format!(
            "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {file}\n\
             ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\nssl_options.verify = verify_none\n"
        )
    }
}

/// Speaks TLS on a free loopback port, in front of a server that does not, until it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    pub port: u16,
    accepting: JoinHandle<()>,
}

impl TlsFront {
    /// In front of this address, with a certificate of this authority for these names, valid until then. PostgreSQL's clients may
    /// say first that TLS is what they want.
    pub async fn before(
        address: &str,
        authority: &Authority,
        names: &[&str],
        until: Option<OffsetDateTime>,
    ) -> Result<Self> {
        let [certificate, key] = authority.sign(names, until)?;
        let (certificate, key) =
            (CertificateDer::from_pem_slice(certificate.as_bytes())?, PrivateKeyDer::from_pem_slice(key.as_bytes())?);
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (port, address) = (listener.local_addr()?.port(), address.to_owned());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A client that refuses us, or a server that is away, ends the connection.
                tokio::spawn(serve(client, acceptor.clone(), address.clone()));
            }
        });
        Ok(Self { port, accepting })
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut client: TcpStream, acceptor: TlsAcceptor, address: String) -> Result<()> {
    let mut first = [0];
    client.peek(&mut first).await?;
    if first == [0] {
        client.read_exact(&mut [0; SSL_REQUEST_BYTES]).await?;
        client.write_all(&[SSL_REQUEST_TAKEN]).await?;
    }
    let mut client = acceptor.accept(client).await?;
    copy_bidirectional(&mut client, &mut TcpStream::connect(address).await?).await?;
    Ok(())
}
