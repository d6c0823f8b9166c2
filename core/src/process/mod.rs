//! A process's part of a queue: its mappings, its locks, its handles, and its search for dead
//! handles.

pub(crate) mod attachment;
pub(crate) mod barriers;
pub(crate) mod claim;
pub(crate) mod companion;
pub(crate) mod descriptor;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod gone;
pub(crate) mod locks;
pub(crate) mod memory;
pub(crate) mod owed;
pub(crate) mod owing;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod side;
pub(crate) mod watch;
