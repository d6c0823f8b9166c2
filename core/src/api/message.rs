//! The types that a queue can carry.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::Corrupt;
use crate::ring::frame::{Block, Frame};
use crate::ring::geometry::TypeMark;
use crate::ring::port::Port;

/// Only this crate decides which types are messages.
pub(crate) mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for [u8] {}
impl<T: FromBytes + IntoBytes + Immutable> sealed::Sealed for T {}

/// A type that a queue can carry: bytes of any length up to `max_message` (`[u8]`), many of those
/// at once ([`Pack`](crate::Pack)), or any type that zerocopy can convert to bytes and back,
/// whatever bits a peer writes: derive `FromBytes`, `IntoBytes` and `Immutable`.
///
/// A queue identifies its type by size, alignment and name: the name without paths, and of a long
/// name its length and the first 64 bytes. **It does not compare the fields**: a type of the same
/// name and size with swapped or renamed fields opens the queue too.
/// [`Builder::schema`](crate::Builder::schema) tells such versions apart.
///
/// ```
/// use zerocopy::{FromBytes, Immutable, IntoBytes};
///
/// #[derive(FromBytes, IntoBytes, Immutable, Debug, PartialEq)]
/// #[repr(C)]
/// struct Order {
///     id: u64,
///     amount: u64,
/// }
///
/// let queue = parkline_core::Queue::builder().capacity(8).create_typed::<Order>()?;
/// queue.sender()?.try_send(&Order { id: 1, amount: 250 })?;
/// assert_eq!(queue.receiver()?.try_recv()?, Order { id: 1, amount: 250 });
/// // Another type is refused when the queue is opened.
/// assert!(parkline_core::Queue::<u64>::open_typed(queue.try_clone_fd()?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Message: sealed::Sealed {
    /// What a receiver gets.
    type Owned;

    /// The bytes to send.
    #[doc(hidden)]
    fn bytes(&self) -> &[u8];

    /// Copies the message out, straight to the place that `put` returns: a move afterwards would
    /// take longer than the copy.
    #[doc(hidden)]
    fn read_to<'p>(
        from: InBlock<'_>,
        put: impl FnOnce(Self::Owned) -> Option<&'p mut Self::Owned>,
    ) -> Result<(), Corrupt>
    where
        Self::Owned: 'p;

    /// The message, copied out.
    #[doc(hidden)]
    fn read(from: InBlock<'_>) -> Result<Self::Owned, Corrupt> {
        let mut message = None;
        Self::read_to(from, |read| Some(message.insert(read)))?;
        message.ok_or(Corrupt { what: "a message was not read" })
    }

    #[doc(hidden)]
    fn mark() -> Mark;
}

/// A received message in its block, before it is copied out.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct InBlock<'a> {
    block: Block<'a>,
    frame: Frame,
}

/// The type that the header of a segment names.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Mark(pub(crate) TypeMark);

impl<'a> InBlock<'a> {
    /// The message in `block` with the header `frame`.
    #[inline]
    pub(crate) fn new(block: Block<'a>, frame: Frame) -> Self {
        Self { block, frame }
    }

    /// The message in cell `number` with the header `frame`.
    pub(crate) fn of(port: &Port<'a>, number: usize, frame: Frame) -> Result<Self, Corrupt> {
        Ok(Self::new(port.block_of(port.cell(number)?)?, frame))
    }

    pub(crate) fn block(self) -> Block<'a> {
        self.block
    }

    pub(crate) fn frame(self) -> Frame {
        self.frame
    }
}

impl core::fmt::Debug for InBlock<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("InBlock").field("frame", &self.frame).finish_non_exhaustive()
    }
}

impl Message for [u8] {
    type Owned = Vec<u8>;

    fn bytes(&self) -> &[u8] {
        self
    }

    #[inline]
    fn read_to<'p>(
        from: InBlock<'_>,
        put: impl FnOnce(Vec<u8>) -> Option<&'p mut Vec<u8>>,
    ) -> Result<(), Corrupt> {
        if let Some(message) = put(vec![0; from.frame.len()]) {
            from.block.read(message);
        }
        Ok(())
    }

    fn mark() -> Mark {
        Mark(TypeMark::BYTES)
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Message for T {
    type Owned = T;

    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    #[inline]
    fn read_to<'p>(
        from: InBlock<'_>,
        put: impl FnOnce(T) -> Option<&'p mut T>,
    ) -> Result<(), Corrupt>
    where
        T: 'p,
    {
        if from.frame.len() != size_of::<T>() {
            return Err(Corrupt { what: "a message has not the size of the queue's type" });
        }
        if let Some(message) = put(T::new_zeroed()) {
            from.block.read(message.as_mut_bytes());
        }
        Ok(())
    }

    fn mark() -> Mark {
        Mark(TypeMark::of::<T>())
    }
}

#[cfg(all(test, not(any(loom, kill_points))))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::{Queue, Receiver};

    /// A message type with a copy that panics.
    struct Uncopied;

    impl sealed::Sealed for Uncopied {}

    impl Message for Uncopied {
        type Owned = Self;

        fn bytes(&self) -> &[u8] {
            &[]
        }

        fn read_to<'p>(
            _from: InBlock<'_>,
            _put: impl FnOnce(Self) -> Option<&'p mut Self>,
        ) -> Result<(), Corrupt> {
            std::panic::resume_unwind(Box::new("as the test wants it"));
        }

        fn mark() -> Mark {
            Mark(TypeMark::BYTES)
        }
    }

    /// Fails if a receive acknowledges before it has copied out (seen failing, of one and of many):
    /// the message would be lost if the process were killed between the two.
    #[test]
    fn a_message_that_is_not_copied_out_comes_again() {
        let receives: [fn(&mut Receiver<Uncopied>); 2] = [
            |it| it.try_recv().map(drop).unwrap(),
            |it| it.try_recv_many(&mut Vec::new(), 1).map(drop).unwrap(),
        ];
        for receive in receives {
            let queue: Queue<Uncopied> = Queue::builder().create_typed().unwrap();
            queue.sender().unwrap().try_send(&Uncopied).unwrap();
            let mut receiver = queue.receiver().unwrap();
            assert!(catch_unwind(AssertUnwindSafe(|| receive(&mut receiver))).is_err());
            drop(receiver);
            assert_eq!((queue.len(), queue.stats().redelivered), (1, 1));
        }
    }
}
