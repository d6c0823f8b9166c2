//! The types that a queue can carry.

use core::mem::MaybeUninit;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::Corrupt;
use crate::ring::frame::{Block, Frame};
use crate::ring::geometry::TypeMark;
use crate::ring::port::{Cell, Port};
use crate::ring::slot::BlockId;

/// What a frame that was checked cannot be: it would mean that a block is shorter than `max_message`.
const SHORT: Corrupt = Corrupt { what: "a message is longer than its block" };

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

    /// The length in bytes, if all messages of the type have the same.
    #[doc(hidden)]
    const LEN: Option<usize> = None;

    /// The bytes to send.
    #[doc(hidden)]
    fn bytes(&self) -> &[u8];

    /// The message, copied out.
    #[doc(hidden)]
    fn read(from: InBlock<'_>) -> Result<Self::Owned, Corrupt>;

    #[doc(hidden)]
    fn mark() -> Mark;
}

/// A received message in its block, before it is copied out.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct InBlock<'a> {
    block: Block<'a>,
    number: BlockId,
    frame: Frame,
}

/// The type that the header of a segment names.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Mark(pub(crate) TypeMark);

impl<'a> InBlock<'a> {
    /// The message in block `number`, with the header `frame`.
    #[inline(always)]
    pub(crate) fn new(block: Block<'a>, number: BlockId, frame: Frame) -> Self {
        Self { block, number, frame }
    }

    /// The message in `cell` with the header `frame`.
    pub(crate) fn of(port: &Port<'a>, cell: &Cell<'_>, frame: Frame) -> Result<Self, Corrupt> {
        let number = cell.block();
        Ok(Self::new(port.ring().block(number)?, number, frame))
    }

    /// The number of the block.
    pub(crate) fn number(self) -> BlockId {
        self.number
    }

    /// The message's id.
    #[inline(always)]
    pub(crate) fn id(self) -> u64 {
        self.block.id()
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
    #[expect(
        unsafe_code,
        reason = "a fifth of a receive would go into zeroes that are overwritten"
    )]
    fn read(from: InBlock<'_>) -> Result<Vec<u8>, Corrupt> {
        let len = from.frame.len();
        // Whole words, as the block has them: no copy of a part of one.
        let padded = len.next_multiple_of(size_of::<u64>());
        let mut message = Vec::with_capacity(padded);
        let room = message.spare_capacity_mut().get_mut(..padded).ok_or(SHORT)?;
        from.block.read_new(room).ok_or(SHORT)?;
        // SAFETY: there is room for `len` bytes, and `read_new` has written them all.
        unsafe { message.set_len(len) };
        Ok(message)
    }

    fn mark() -> Mark {
        Mark(TypeMark::BYTES)
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Message for T {
    type Owned = T;

    const LEN: Option<usize> = Some(size_of::<T>());

    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    #[inline(always)] // so that the words go from their block straight to where the caller wants them
    #[expect(unsafe_code, reason = "zeroes that are overwritten would take longer than the copy")]
    fn read(from: InBlock<'_>) -> Result<T, Corrupt> {
        if from.frame.len() != size_of::<T>() {
            return Err(Corrupt { what: "a message has not the size of the queue's type" });
        }
        let mut message = MaybeUninit::<T>::uninit();
        let bytes = message.as_mut_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: these are the bytes of `message`, and no other reference to them lives meanwhile.
        let room = unsafe { core::slice::from_raw_parts_mut(bytes, size_of::<T>()) };
        from.block.read_new(room).ok_or(SHORT)?;
        // SAFETY: `read_new` has written all bytes, and any bytes are a valid `T`, because it is
        // `FromBytes`.
        Ok(unsafe { message.assume_init() })
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

        fn read(_from: InBlock<'_>) -> Result<Self, Corrupt> {
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
