//! The ways in which a dead handle is recovered.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use parkline_core::{AttachError, Queue};

use super::fate::{self, Fate, KillPoints};
use crate::marks::Marks;
use crate::player::Player;
use crate::scene::Scene;
use crate::waiter::WATCHDOG;

/// How a process comes to recover a dead handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Recoverer {
    /// It calls `Queue::recover`.
    Call,
    /// It makes a new handle, which takes the dead handle's record.
    Attach,
    /// It waits in a join until its watchdog is due.
    Watchdog,
}

impl Recoverer {
    pub(crate) const ALL: [Self; 3] = [Self::Call, Self::Attach, Self::Watchdog];

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    fn of_name(name: &str) -> Result<Self> {
        Self::from_str(name, false).ok().with_context(|| format!("nobody recovers by `{name}`"))
    }

    /// Starts a process that recovers the dead.
    pub(crate) fn start(
        self,
        scene: &Scene,
        fate: Fate,
        stdout: Option<OwnedFd>,
    ) -> Result<Player> {
        let [fate, at] = fate.words();
        let words = ["recoverer", &self.name(), &fate, &at];
        Player::start(&words, scene.fd()?, stdout)
    }

    fn recover(self, queue: &Queue) -> Result<()> {
        match self {
            Self::Call => {
                KillPoints.around(|| queue.recover())?;
            }
            Self::Attach => match KillPoints.around(|| queue.receiver()) {
                // There is no free record if the victim's operation needs none.
                Ok(_) | Err(AttachError::NoFreeHandle { .. }) => {}
                Err(refused) => return Err(refused.into()),
            },
            Self::Watchdog => {
                let timeout = WATCHDOG + Duration::from_millis(2);
                // The join is over, or the time is.
                let _ = KillPoints.around(|| queue.join_blocking_timeout(timeout));
            }
        }
        Ok(())
    }
}

/// The part of a recoverer. Its words: how it recovers, and its fate.
pub(crate) fn play(queue: &Queue, words: &[String]) -> Result<()> {
    let [how, fate, at] = words else { bail!("a recoverer has three words: {words:?}") };
    fate::take(fate, at)?;
    Recoverer::of_name(how)?.recover(queue)
}
