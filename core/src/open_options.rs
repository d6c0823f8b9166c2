//! How a queue is opened, where its type does not say enough.
//!
//! A queue knows its type by size, alignment and name. Rust tells no more at run time: structs of the
//! same name and size look alike, whatever their fields are. So a creator can name a schema and count
//! its versions, and an opener must name the same. An opener that names none is refused too, because it
//! was written for other messages, or before the schema.

use std::os::fd::OwnedFd;

use crate::error::OpenError;
use crate::geometry::Schema;
use crate::message::Message;
use crate::queue::Queue;
use crate::segment::Segment;

/// How to open a queue. Made by [`Queue::open_options`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "nothing is opened until `open`"]
pub struct OpenOptions {
    schema: SchemaAsked,
}

/// Which schema an opener takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum SchemaAsked {
    /// None.
    #[default]
    Unnamed,
    Named(Schema),
    Any,
}

impl SchemaAsked {
    /// What was asked for, if `found` is something else.
    pub(crate) fn refuses(self, found: Schema) -> Option<Schema> {
        match self {
            Self::Any => None,
            Self::Unnamed => (found != Schema::NONE).then_some(Schema::NONE),
            // An empty name does not stand for "no schema".
            Self::Named(asked) => (found != asked || found.name().is_none()).then_some(asked),
        }
    }
}

impl OpenOptions {
    /// Opens only a queue whose creator named this schema by
    /// [`Builder::schema`](crate::Builder::schema), byte for byte the same name and the same version.
    /// No queue has an empty name, or one of more than 64 bytes.
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

    /// Opens a queue of any schema, and one of none: for tools that do not read the messages, or look
    /// at [`Queue::schema`] first.
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue};
    ///
    /// let queue = Queue::builder().schema("orders", 3).create()?;
    /// let any = Queue::open_options().any_schema().open(queue.try_clone_fd()?)?;
    /// assert_eq!(any.schema(), Some(("orders", 3)));
    /// let of_type = Queue::open_options().any_schema().open_typed::<u64>(queue.try_clone_fd()?);
    /// assert!(matches!(of_type, Err(OpenError::WrongType { .. })), "the type is looked at");
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
    pub fn open(self, fd: impl Into<OwnedFd>) -> Result<Queue, OpenError> {
        self.open_typed(fd)
    }

    /// Opens a queue that carries `M`.
    ///
    /// # Errors
    /// As [`Queue::open_typed`]; [`OpenError::Schema`] when the queue's schema is not the one asked
    /// for.
    pub fn open_typed<M: Message + ?Sized>(
        self,
        fd: impl Into<OwnedFd>,
    ) -> Result<Queue<M>, OpenError> {
        Ok(Queue::of(Segment::open_as(fd.into(), M::mark().0, self.schema)?))
    }
}
