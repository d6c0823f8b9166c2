//! The ways in which the dead are recovered.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use parkline_core::{AttachError, Queue};

use crate::marks::Marks;
use crate::scene::WATCHDOG;

/// How somebody comes to recover a dead handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Recoverer {
    /// `Queue::recover`.
    Call,
    /// A new handle that takes the record.
    Attach,
    /// Somebody who waits, and whose watchdog is due: here who joins.
    Watchdog,
}

impl Recoverer {
    pub(crate) const ALL: [Self; 3] = [Self::Call, Self::Attach, Self::Watchdog];

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    pub(crate) fn of_name(name: &str) -> Result<Self> {
        Self::from_str(name, false).ok().with_context(|| format!("nobody recovers by `{name}`"))
    }

    pub(crate) fn play(self, queue: &Queue, marks: &Marks) -> Result<()> {
        match self {
            Self::Call => {
                marks.around(|| queue.recover())?;
            }
            Self::Attach => match marks.around(|| queue.receiver()) {
                // The operation was one that needs no record.
                Ok(_) | Err(AttachError::NoFreeHandle { .. }) => {}
                Err(refused) => return Err(refused.into()),
            },
            Self::Watchdog => {
                let until = WATCHDOG + Duration::from_millis(2);
                // Over, or the time is.
                let _ = marks.around(|| queue.join_blocking_timeout(until));
            }
        }
        Ok(())
    }
}
