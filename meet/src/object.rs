//! What can be met: a queue, an event, a semaphore.

use std::io;
use std::os::fd::OwnedFd;

use parkline_core::{Event, Message, OpenError, OpenOptions, Queue, Semaphore};

/// A queue, an event or a semaphore: what this crate brings from one program into another.
///
/// No other type can implement it.
pub trait Object: sealed::Sealed + Sized + Send + 'static {
    /// Another descriptor of it.
    #[doc(hidden)]
    fn descriptor(&self) -> io::Result<OwnedFd>;

    /// Its number, the same in all processes.
    #[doc(hidden)]
    fn number(&self) -> u128;

    /// Opens the one of a descriptor. A schema counts for queues alone.
    #[doc(hidden)]
    fn open_with(object: OwnedFd, options: OpenOptions) -> Result<Self, OpenError>;

    /// A call that recovers what dead processes had of it, for a server to make when a client ends.
    #[doc(hidden)]
    fn recovery(&self) -> Option<Box<dyn Fn() + Send>> {
        None
    }
}

impl<M: Message + ?Sized + 'static> Object for Queue<M> {
    fn descriptor(&self) -> io::Result<OwnedFd> {
        self.try_clone_fd()
    }

    fn number(&self) -> u128 {
        self.id()
    }

    fn open_with(object: OwnedFd, options: OpenOptions) -> Result<Self, OpenError> {
        options.open_typed(object)
    }

    fn recovery(&self) -> Option<Box<dyn Fn() + Send>> {
        // Without it the waiters of the queue recover what the dead had, a little later.
        let same: Self =
            Queue::open_options().any_schema().open_typed(self.descriptor().ok()?).ok()?;
        Some(Box::new(move || drop(same.recover())))
    }
}

impl Object for Event {
    fn descriptor(&self) -> io::Result<OwnedFd> {
        self.try_clone_fd()
    }

    fn number(&self) -> u128 {
        self.id()
    }

    fn open_with(object: OwnedFd, _: OpenOptions) -> Result<Self, OpenError> {
        Self::open(object)
    }
}

/// Its server opens it no second time for a recovery, because that would take one more of its
/// handles.
impl Object for Semaphore {
    fn descriptor(&self) -> io::Result<OwnedFd> {
        self.try_clone_fd()
    }

    fn number(&self) -> u128 {
        self.id()
    }

    fn open_with(object: OwnedFd, _: OpenOptions) -> Result<Self, OpenError> {
        Self::open(object)
    }
}

mod sealed {
    pub trait Sealed {}
    impl<M: parkline_core::Message + ?Sized> Sealed for parkline_core::Queue<M> {}
    impl Sealed for parkline_core::Event {}
    impl Sealed for parkline_core::Semaphore {}
}
