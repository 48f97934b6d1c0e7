//! The TCP connection beneath a connection to the broker, so that it can be cut.
//!
//! Why cut? An orderly close makes the broker activate the next worker first, and return what we had not settled only
//! then: out of order. What a dead TCP connection leaves unsettled is returned first, in order, as after `kill -9`.

use lapin::{Connection, ConnectionProperties, tcp::AsyncTcpStream, uri::AMQPUri};
use std::{
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex},
};

/// A second handle on the connection's socket.
#[derive(Debug, Clone, Default)]
pub(super) struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    /// Ends the TCP connection, now, without a word of AMQP. Does nothing the second time.
    pub(super) fn cut(&self) {
        let socket = self.0.lock().expect("nobody panics while holding this lock").take();
        // Failing means that the other side was faster.
        drop(socket.map(|socket| socket.shutdown(Shutdown::Both)));
    }
}

/// Connects, keeping a handle on the socket.
pub(super) async fn open(uri: AMQPUri, properties: ConnectionProperties) -> lapin::Result<(Connection, Socket)> {
    let socket = Socket::default();
    let kept = socket.clone();
    let connecting = Connection::connector(
        uri,
        lapin::runtime::default_runtime()?,
        async move |uri, runtime| {
            let host = (uri.authority.host.as_str(), uri.authority.port);
            let addresses: Vec<_> = tokio::net::lookup_host(host).await?.collect();
            let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                let handle = plain.get_ref().as_fd().try_clone_to_owned()?;
                *kept.0.lock().expect("nobody panics while holding this lock") = Some(TcpStream::from(handle));
            }
            Ok(stream)
        },
        properties,
    );
    Ok((connecting.await?, socket))
}
