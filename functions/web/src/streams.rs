//! Server-sent events: as many streams as may be open, each ended with its client, or with us.

use crate::door::Door;
use crate::problem::Problem;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a client waits before it asks another door, or this one, to go on.
const RETRY: Duration = Duration::from_secs(1);
/// How long nothing is said at most: who is gone is noticed by it.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Where events go. Boxed: however few may wait, a channel has room for 32, and there are thousands of streams.
#[derive(Clone)]
pub(crate) struct Sender(mpsc::Sender<Box<Event>>);

impl Sender {
    pub(crate) async fn say(&self, name: &str, data: &str) {
        self.send(Event::default().event(name).data(data)).await;
    }

    /// The last one: a client that comes back behind it has nothing more to hear.
    pub(crate) async fn end(&self, name: &str, data: &str) {
        self.send(Event::default().event(name).data(data).id(END)).await;
    }

    /// The same, with nothing to say.
    pub(crate) async fn end_silently(&self) {
        self.send(Event::default().id(END)).await;
    }

    /// To nobody, where the client is gone: then we are about to be.
    async fn send(&self, event: Event) {
        drop(self.0.send(Box::new(event)).await);
    }
}

/// The id of a last event.
pub(crate) const END: &str = "end";

/// A response of what `tell` says until it is done, the client is gone, or we are told to stop.
pub(crate) fn stream<Telling: Future<Output = ()> + Send + 'static>(
    door: Arc<Door>,
    tell: impl FnOnce(Arc<Door>, Sender) -> Telling,
) -> Result<Response, Problem> {
    let open = Arc::clone(&door.streams).try_acquire_owned().map_err(|_| Problem::TooManyStreams)?;
    let (sender, receiver) = mpsc::channel(1);
    let telling = tell(Arc::clone(&door), Sender(sender.clone()));
    tokio::spawn(async move {
        drop(sender.send(Box::new(Event::default().retry(RETRY))).await);
        tokio::select! { () = telling => (), () = sender.closed() => (), () = door.service.stopped() => () }
        drop(open);
    });
    let events = stream::unfold(receiver, async |mut receiver| {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(*event), receiver))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(SILENCE_MAX)).into_response())
}
