//! A handle on a connection's socket, by which the connection can be cut.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Before the first probe of a silent connection, and between probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long what is sent may be without TCP's acknowledgement, as on the database's end of its connections.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(25);

/// A second handle on a connection's socket, by which the connection can be cut.
///
/// Why cut? An orderly close makes the broker activate the next worker first, and return what we had not settled only
/// then: out of order. What a dead TCP connection leaves unsettled is returned first, in order, as after `kill -9`.
#[derive(Debug, Clone, Default)]
pub(super) struct Socket(Arc<OnceLock<TcpStream>>);

impl Socket {
    /// A handle on this socket, which from here on finds out when the other end is gone without a word: heartbeats do where nothing
    /// is under way, these two where something is.
    pub(super) fn handle(stream: &impl AsFd) -> io::Result<OwnedFd> {
        let handle = stream.as_fd().try_clone_to_owned()?;
        let tcp = SockRef::from(&handle);
        tcp.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        Ok(handle)
    }

    /// From here on, this is the socket that can be cut.
    pub(super) fn keep(&self, handle: OwnedFd) {
        self.0.get_or_init(|| TcpStream::from(handle));
    }

    /// Ends the TCP connection, now, without a word of AMQP.
    pub(super) fn cut(&self) {
        // Failing means that the other side was faster.
        drop(self.0.get().map(|socket| socket.shutdown(Shutdown::Both)));
    }
}
