//! Opening a queue with a schema, where its type does not say enough.
//!
//! A queue identifies its type by size, alignment and name. Rust has no more at run time: structs
//! of the same name and size look alike, whatever their fields are. So a creator can name a schema
//! with a version, and an opener must name the same. An opener that names none is refused too,
//! because it was written for other messages, or before the schema.

use std::os::fd::OwnedFd;

use crate::api::message::Message;
use crate::api::queue::Queue;
use crate::error::OpenError;
use crate::process::segment::Segment;
use crate::ring::geometry::{Schema, SchemaAsked};

/// How to open a queue. Made by [`Queue::open_options`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "nothing is opened until `open`"]
pub struct OpenOptions {
    schema: SchemaAsked,
}

impl Queue {
    /// Opens the queue of bytes that another process, or this one, created.
    ///
    /// Every property of an untrusted memfd that can be checked is checked, once: its seals, its
    /// length, its header.
    ///
    /// # Errors
    /// [`OpenError`] tells what is wrong with the descriptor. [`OpenError::Schema`] when the
    /// queue's creator named a schema: use [`open_options`](Self::open_options).
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue};
    ///
    /// let queue = Queue::builder().create()?;
    /// let same = Queue::open(queue.try_clone_fd()?)?;
    /// assert_eq!(same.id(), queue.id());
    /// let no_queue = Queue::open(std::fs::File::open("/dev/null")?);
    /// assert!(matches!(no_queue, Err(OpenError::NotMemfd { .. })));
    /// let numbers = Queue::builder().create_typed::<u64>()?;
    /// let as_bytes = Queue::open(numbers.try_clone_fd()?);
    /// assert!(matches!(as_bytes, Err(OpenError::WrongType { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(fd: impl Into<OwnedFd>) -> Result<Self, OpenError> {
        Self::open_typed(fd)
    }

    /// Begins to open a queue that must have a given schema:
    /// `Queue::open_options().schema("orders", 3).open(fd)`.
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue};
    ///
    /// let queue = Queue::builder().schema("orders", 3).create()?;
    /// assert!(Queue::open_options().schema("orders", 3).open(queue.try_clone_fd()?).is_ok());
    /// let unnamed = Queue::open_options().open(queue.try_clone_fd()?);
    /// assert!(matches!(unnamed, Err(OpenError::Schema { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_options() -> OpenOptions {
        OpenOptions::default()
    }
}

impl<M: Message + ?Sized> Queue<M> {
    /// Opens a queue that carries `M`.
    ///
    /// The type is compared by its size, its alignment and its name, **not by its fields**: if the
    /// creator's `M` has fields of the same size in another order, the queue opens, and messages
    /// are read wrong. Name a schema to tell them apart:
    /// [`Builder::schema`](crate::Builder::schema).
    ///
    /// # Errors
    /// As [`Queue::open`], and [`OpenError::WrongType`] when the queue carries another type.
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue};
    ///
    /// let queue = Queue::builder().create_typed::<u64>()?;
    /// let same = Queue::<u64>::open_typed(queue.try_clone_fd()?)?;
    /// queue.sender()?.try_send(&42)?;
    /// assert_eq!(same.receiver()?.try_recv()?, 42);
    /// let of_signed = Queue::<i64>::open_typed(queue.try_clone_fd()?);
    /// assert!(matches!(of_signed, Err(OpenError::WrongType { .. })), "same size, another name");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_typed(fd: impl Into<OwnedFd>) -> Result<Self, OpenError> {
        OpenOptions::default().open_typed(fd)
    }
}

impl OpenOptions {
    /// Opens a queue only if its creator named this schema with
    /// [`Builder::schema`](crate::Builder::schema): the same name, byte for byte, and the same
    /// version. An empty name, or one of more than 64 bytes, matches no queue.
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue};
    ///
    /// let queue = Queue::builder().schema("orders", 3).create()?;
    /// let same = Queue::open_options().schema("orders", 3).open(queue.try_clone_fd()?)?;
    /// assert_eq!(same.schema(), Some(("orders", 3)));
    /// let older = Queue::open_options().schema("orders", 2).open(queue.try_clone_fd()?);
    /// assert!(matches!(older, Err(OpenError::Schema { .. })));
    /// // A program that names none was written for other messages.
    /// assert!(matches!(Queue::open(queue.try_clone_fd()?), Err(OpenError::Schema { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn schema(mut self, name: &str, version: u32) -> Self {
        self.schema = SchemaAsked::Named(Schema::new(name, version));
        self
    }

    /// Opens a queue with any schema or none: for tools that do not read the messages, or that
    /// check [`Queue::schema`] first.
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue};
    ///
    /// let queue = Queue::builder().schema("orders", 3).create()?;
    /// let any = Queue::open_options().any_schema().open(queue.try_clone_fd()?)?;
    /// assert_eq!(any.schema(), Some(("orders", 3)));
    /// let of_type = Queue::open_options().any_schema().open_typed::<u64>(queue.try_clone_fd()?);
    /// assert!(matches!(of_type, Err(OpenError::WrongType { .. })), "the type is checked");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn any_schema(mut self) -> Self {
        self.schema = SchemaAsked::Any;
        self
    }

    /// Opens the queue of bytes of a descriptor.
    ///
    /// # Errors
    /// As [`Queue::open`]; [`OpenError::Schema`] when the queue's schema is not the one asked for.
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue};
    ///
    /// let queue = Queue::builder().create()?;
    /// assert!(Queue::open_options().open(queue.try_clone_fd()?).is_ok());
    /// let named = Queue::open_options().schema("orders", 1).open(queue.try_clone_fd()?);
    /// assert!(matches!(named, Err(OpenError::Schema { .. })), "the creator named none");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(self, fd: impl Into<OwnedFd>) -> Result<Queue, OpenError> {
        self.open_typed(fd)
    }

    /// Opens a queue that carries `M`.
    ///
    /// # Errors
    /// As [`Queue::open_typed`]; [`OpenError::Schema`] when the queue's schema is not the one asked
    /// for.
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue};
    ///
    /// let queue = Queue::builder().schema("prices", 1).create_typed::<u64>()?;
    /// let prices = Queue::open_options().schema("prices", 1);
    /// assert!(prices.open_typed::<u64>(queue.try_clone_fd()?).is_ok());
    /// let of_floats = prices.open_typed::<f64>(queue.try_clone_fd()?);
    /// assert!(matches!(of_floats, Err(OpenError::WrongType { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_typed<M: Message + ?Sized>(
        self,
        fd: impl Into<OwnedFd>,
    ) -> Result<Queue<M>, OpenError> {
        Ok(Queue::of(Segment::open_as(fd.into(), M::mark().0, self.schema)?))
    }
}
