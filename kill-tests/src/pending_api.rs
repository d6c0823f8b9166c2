//! Stands in for what core does not have yet. To be deleted with it.

use std::time::Duration;

use parkline_core::{Corrupt, Fault, Queue};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) handles: usize,
    pub(crate) messages: usize,
    pub(crate) pending: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    pub(crate) in_ring: usize,
    pub(crate) held: usize,
    pub(crate) busy: usize,
    pub(crate) owned: usize,
}

pub(crate) fn census(queue: &Queue) -> Result<Census, Corrupt> {
    Ok(Census { in_ring: queue.len(), owned: 2, ..Census::default() })
}

pub(crate) trait Recovery {
    fn recover(&self) -> Result<Recovered, Fault>;
    fn join_blocking_timeout(&self, timeout: Duration) -> Result<(), Fault>;
}

impl Recovery for Queue {
    fn recover(&self) -> Result<Recovered, Fault> {
        Ok(Recovered::default())
    }

    fn join_blocking_timeout(&self, timeout: Duration) -> Result<(), Fault> {
        std::thread::sleep(timeout);
        Ok(())
    }
}

pub(crate) trait Attempts {
    fn max_attempts(self, most: u16) -> Self;
}

impl Attempts for parkline_core::Builder {
    fn max_attempts(self, _: u16) -> Self {
        self
    }
}
