//! How long a call tries again, and how often.
//!
//! Time decides only when a call gives up, never whether a process lives. The pauses are short ones
//! that double, not a watch on the directory, because inotify has 128 instances for each user.

use std::time::{Duration, Instant};

use crate::error::MeetError;

/// For a server that is there and busy, or about to be replaced.
const USUAL: Duration = Duration::from_secs(5);
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Trying again will not help.
    ForGood(MeetError),
    /// It may succeed when another process has acted.
    NotYet {
        error: MeetError,
        /// Whether such a process is at work: then a call tries again even if it was not asked to
        /// wait.
        is_under_way: bool,
    },
}

impl From<MeetError> for Failed {
    fn from(error: MeetError) -> Self {
        Self::ForGood(error)
    }
}

impl Failed {
    pub(crate) fn under_way(error: MeetError) -> Self {
        Self::NotYet { error, is_under_way: true }
    }

    pub(crate) fn until_asked(error: MeetError) -> Self {
        Self::NotYet { error, is_under_way: false }
    }
}

#[derive(Debug)]
pub(crate) struct Patience {
    began: Instant,
    asked: Option<Duration>,
    pause: Duration,
}

impl Patience {
    /// `asked` is the time that the caller wants to wait, if it does.
    pub(crate) fn new(asked: Option<Duration>) -> Self {
        Self { began: Instant::now(), asked, pause: FIRST_PAUSE }
    }

    pub(crate) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// How much time is left for a server that is at work.
    pub(crate) fn left(&self) -> Duration {
        self.asked.unwrap_or(USUAL).saturating_sub(self.began.elapsed())
    }

    /// The pause before the next attempt.
    pub(crate) fn after(&mut self, failed: Failed) -> Result<Duration, MeetError> {
        let error = match failed {
            Failed::ForGood(error) => return Err(error),
            Failed::NotYet { error, is_under_way: false } if self.asked.is_none() => {
                return Err(error);
            }
            Failed::NotYet { error, .. } => error,
        };
        let left = self.left();
        if left.is_zero() {
            return Err(error);
        }
        let pause = self.pause.min(left);
        self.pause = next_pause(self.pause);
        Ok(pause)
    }
}

pub(crate) fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}
