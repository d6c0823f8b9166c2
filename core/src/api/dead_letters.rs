//! Dead letters: messages that were delivered as often as the queue allows, and what happens to
//! them. A receiver gives such a message up only if it has a place for dead letters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use crate::api::lease::Lease;
use crate::api::message::Message;
use crate::api::sender::Sender;

/// A message that was delivered to receivers as often as the queue allows, and never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter<T> {
    /// The id of the message: see [`Lease::id`]. A second queue gives it another.
    pub id: u64,
    /// The message.
    pub message: T,
    /// How many times it was delivered to a receiver, this time included.
    pub attempts: u16,
}

/// What happens to messages that have used up their attempts.
pub(crate) enum DeadLetters<M: Message + ?Sized> {
    /// The receiver gets them like others, and their attempts go on counting.
    Kept,
    Discarded,
    Forwarded(Box<Sender<M>>),
    Handled(Arc<Handler<M>>),
}

type Call<M> = dyn FnMut(DeadLetter<<M as Message>::Owned>) + Send;

/// A user's handler, and the messages that wait for it.
pub(crate) struct Handler<M: Message + ?Sized> {
    /// Locked while the handler runs. No thread waits for this lock.
    call: Mutex<Box<Call<M>>>,
    letters: Mutex<VecDeque<Lease<M>>>,
}

impl<M: Message + ?Sized> Handler<M> {
    pub(crate) fn new(call: Box<Call<M>>) -> Self {
        Self { call: Mutex::new(call), letters: Mutex::default() }
    }

    /// Keeps `letter` for the next [`run`](Self::run).
    pub(crate) fn push(&self, letter: Lease<M>) {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).push_back(letter);
    }

    fn pop(&self) -> Option<Lease<M>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn is_empty(&self) -> bool {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Calls the handler with each letter, and then acknowledges the letter. Returns whether there
    /// was one. If the handler is already running, on another thread or further up this stack, that
    /// run handles them.
    ///
    /// A letter is not acknowledged if its handler panics: it goes back.
    pub(crate) fn run(&self) -> bool {
        let mut any = false;
        while !self.is_empty() {
            let mut call = match self.call.try_lock() {
                Ok(call) => call,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => break,
            };
            while let Some(letter) = self.pop() {
                any = true;
                // A letter that cannot be read goes back; the next call on this queue reports the
                // fault.
                if let Ok(message) = letter.read() {
                    let (id, attempts) = (letter.id(), letter.attempts());
                    call(DeadLetter { id, message, attempts });
                    letter.ack_dead();
                }
            }
        }
        any
    }
}

/// The dead letters that a call under a lock left for their handler, because the handler may take
/// that lock: see [`Receiver::defer_dead_letters`](crate::Receiver::defer_dead_letters).
pub struct DeferredLetters<M: Message + ?Sized>(pub(crate) Arc<Handler<M>>);

impl<M: Message + ?Sized> DeferredLetters<M> {
    /// Calls the handler with them, to be called without the lock. Returns whether there was one
    /// left.
    pub fn handle(self) -> bool {
        self.0.run()
    }
}

impl<M: Message + ?Sized> core::fmt::Debug for DeferredLetters<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DeferredLetters").finish_non_exhaustive()
    }
}

impl<M: Message + ?Sized> DeadLetters<M> {
    /// The letters that wait for the handler.
    pub(crate) fn deferred(&self) -> Option<DeferredLetters<M>> {
        match self {
            Self::Handled(handler) if !handler.is_empty() => {
                Some(DeferredLetters(Arc::clone(handler)))
            }
            _ => None,
        }
    }
}
