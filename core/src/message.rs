//! What a queue can carry.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::Corrupt;
use crate::frame::{Block, Frame};
use crate::geometry::TypeMark;
use crate::port::Port;

mod sealed {
    pub trait Sealed {}
    impl Sealed for [u8] {}
    impl Sealed for crate::pack::Pack {}
    impl Sealed for crate::semaphore::Token {}
    impl<T: super::FromBytes + super::IntoBytes + super::Immutable> Sealed for T {}
}

/// What a queue can carry: bytes of any length up to `max_message` (`[u8]`), many of those at once
/// ([`Pack`](crate::Pack)), or any type that zerocopy can turn into bytes and back, whatever bits a
/// peer writes: derive `FromBytes`, `IntoBytes` and `Immutable`.
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

    /// The message, copied out.
    #[doc(hidden)]
    fn read(from: InBlock<'_>) -> Result<Self::Owned, Corrupt>;

    #[doc(hidden)]
    fn mark() -> Mark;
}

/// A message where it was received, before it is copied out.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct InBlock<'a> {
    block: Block<'a>,
    frame: Frame,
}

/// What the header of a segment says of its messages.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Mark(pub(crate) TypeMark);

impl<'a> InBlock<'a> {
    /// The message in `cell`, whose header was read as `frame`.
    #[inline]
    pub(crate) fn of(port: &Port<'a>, cell: usize, frame: Frame) -> Result<Self, Corrupt> {
        Ok(Self { frame, block: port.block(cell)? })
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

    fn read(from: InBlock<'_>) -> Result<Vec<u8>, Corrupt> {
        let mut message = vec![0; from.frame.len()];
        from.block.read(&mut message);
        Ok(message)
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
    fn read(from: InBlock<'_>) -> Result<T, Corrupt> {
        if from.frame.len() != size_of::<T>() {
            return Err(Corrupt { what: "a message has not the size of the queue's type" });
        }
        let mut message = T::new_zeroed();
        from.block.read(message.as_mut_bytes());
        Ok(message)
    }

    fn mark() -> Mark {
        Mark(TypeMark::of::<T>())
    }
}
