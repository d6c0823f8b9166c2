//! What a receive that tells the id returns.

/// A received message, and its id: see
/// [`Receiver::try_recv_with_id`](crate::Receiver::try_recv_with_id).
///
/// The fields have names because a message may be a `u64` as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received<T> {
    /// The id of the message: see [`Lease::id`](crate::Lease::id).
    pub id: u64,
    /// The message.
    pub message: T,
}
