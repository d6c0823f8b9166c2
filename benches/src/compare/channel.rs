//! Channels of one process, and the ends that they make, each by the calls that it has.

use super::ends::{End, Task, Threads, retry};
use crate::Message;

/// A channel with calls that do not wait.
pub(crate) trait Channel: 'static {
    type Sender: Send + 'static;
    type Receiver: Send + 'static;

    fn make() -> (Self::Sender, Self::Receiver);
    fn try_send(sender: &mut Self::Sender, message: &Message) -> Option<()>;
    fn try_recv(receiver: &mut Self::Receiver) -> Option<Message>;
}

/// A channel with calls that block the thread.
#[cfg(feature = "peers")]
pub(crate) trait Blocking: Channel {
    fn send(sender: &mut Self::Sender, message: &Message);
    fn recv(receiver: &mut Self::Receiver) -> Message;
}

/// A channel with calls that are awaited.
pub(crate) trait Awaited: Channel {
    fn send_async(sender: &mut Self::Sender, message: &Message) -> impl Future<Output = ()> + Send;
    fn recv_async(receiver: &mut Self::Receiver) -> impl Future<Output = Message> + Send;
}

/// A sender of one channel and a receiver of another. As an [`End`] it attempts until a call succeeds,
/// or it blocks.
#[derive(Debug)]
pub(crate) struct Ends<C: Channel, const BLOCKS: bool = false> {
    pub(crate) there: C::Sender,
    pub(crate) back: C::Receiver,
}

/// The ends whose calls block.
#[cfg(feature = "peers")]
pub(crate) type BlockingEnds<C> = Ends<C, true>;

impl<C: Channel, const BLOCKS: bool> Threads for Ends<C, BLOCKS> {
    fn pair() -> (Self, Self) {
        let ((there, theirs), (their_there, back)) = (C::make(), C::make());
        (Self { there, back }, Self { there: their_there, back: theirs })
    }
}

impl<C: Channel> Clone for Ends<C>
where
    C::Sender: Clone,
    C::Receiver: Clone,
{
    fn clone(&self) -> Self {
        Self { there: self.there.clone(), back: self.back.clone() }
    }
}

impl<C: Channel> End for Ends<C> {
    fn send(&mut self, message: &Message) {
        retry(|| C::try_send(&mut self.there, message));
    }

    fn recv(&mut self) -> Message {
        retry(|| C::try_recv(&mut self.back))
    }
}

#[cfg(feature = "peers")]
impl<C: Blocking> End for BlockingEnds<C> {
    fn send(&mut self, message: &Message) {
        C::send(&mut self.there, message);
    }

    fn recv(&mut self) -> Message {
        C::recv(&mut self.back)
    }
}

impl<C: Awaited> Task for Ends<C> {
    async fn send(&mut self, message: &Message) {
        C::send_async(&mut self.there, message).await;
    }

    async fn recv(&mut self) -> Message {
        C::recv_async(&mut self.back).await
    }
}
