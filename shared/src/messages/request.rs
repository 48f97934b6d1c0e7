//! What every kind of request has in common.

use super::verdict::Rejection;
use uuid::Uuid;

/// A kind of request: who takes it, how it is read, and what tells one from another.
pub trait Request: Sized + Send + Sync {
    /// The function that takes it. Its queue has this name, or its partitions `NAME.0`, `NAME.1`, …
    const FUNCTION: &'static str;

    /// Reads a message's body; `message_id`, the transport's, stands in for a `request_id` that the body lacks.
    ///
    /// # Errors
    /// A [`Rejection`] that names the first thing wrong, with the request id where one could be read. Never panics,
    /// whatever the bytes.
    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection>;

    /// Chosen by the sender; the same id always gets the same verdict.
    fn request_id(&self) -> &str;

    /// Identifies the content (everything but the request id): equal content, equal fingerprint. Stored with the verdict,
    /// so what it is made of never changes.
    fn fingerprint(&self) -> Uuid;
}
