//! How items get into a queue and out of it: at once, and with a wait.

use std::collections::VecDeque;
use std::time::Instant;

use parkline_uring::{Fault, Lease, TryRecvError, TrySendError};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::blocking::{self, LOOK_EVERY};
use crate::encoded::Encoded;
use crate::errors;
use crate::opened::Opened;
use crate::queue::{Counted, Queue, shut_down};

impl Queue {
    /// An item that was received, for the caller: decoded, and acknowledged or kept on lease.
    pub(crate) fn hand_over(
        &self,
        py: Python<'_>,
        opened: &Opened,
        lease: Lease,
    ) -> PyResult<Py<PyAny>> {
        opened.note_attempts(&lease);
        let copied = self.codec.copy(py, &lease);
        if !self.joinable {
            opened.acknowledge(lease);
            return Ok(self.codec.decode(copied?)?.unbind());
        }
        let decoded = copied.and_then(|copied| self.codec.decode(copied));
        match decoded {
            Ok(item) => {
                opened.keep(holder(py)?, lease);
                Ok(item.unbind())
            }
            // Nobody can be done with what nobody got.
            Err(error) => {
                opened.acknowledge(lease);
                Err(error)
            }
        }
    }

    pub(crate) fn try_take(&self, py: Python<'_>, opened: &Opened) -> PyResult<Option<Py<PyAny>>> {
        if let Some(error) = opened.late.take() {
            return Err(error);
        }
        let taken = opened.receiver(py)?.lock().try_lease();
        match taken {
            Ok(lease) => self.hand_over(py, opened, lease).map(Some),
            Err(TryRecvError::Empty | TryRecvError::Fault(Fault::LeasesOut { .. })) => Ok(None),
            Err(TryRecvError::Closed) => Err(shut_down(py)),
            Err(TryRecvError::Fault(fault)) => Err(errors::fault(py, fault)),
        }
    }

    /// Takes an item, waiting for it until `until`.
    pub(crate) fn take_until(
        &self,
        py: Python<'_>,
        opened: &Opened,
        until: Option<Instant>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let receiver = opened.receiver(py)?;
        let side = receiver.lock().side();
        let _counted = Counted::new(&opened.getters);
        loop {
            let then = opened.starved.now();
            let attempt = || match receiver.lock().try_lease() {
                Err(TryRecvError::Empty) => None,
                settled => Some(settled),
            };
            match blocking::wait(py, &side, Some(&opened.getting), until, attempt)? {
                None | Some(Err(TryRecvError::Empty)) => return Ok(None),
                Some(Ok(lease)) => return self.hand_over(py, opened, lease).map(Some),
                Some(Err(TryRecvError::Closed)) => return Err(shut_down(py)),
                Some(Err(TryRecvError::Fault(Fault::LeasesOut { .. }))) => {
                    let left = until.map(|it| it.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Ok(None);
                    }
                    let nap = left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY));
                    py.detach(|| opened.starved.sleep(then, nap));
                    blocking::check(py)?;
                }
                Some(Err(TryRecvError::Fault(fault))) => return Err(errors::fault(py, fault)),
            }
        }
    }

    /// Sends an item if there is room.
    pub(crate) fn try_offer(py: Python<'_>, opened: &Opened, item: &Encoded) -> PyResult<bool> {
        let sent = item.try_send(py, &mut opened.sender(py)?.lock());
        match sent {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(())) => Ok(false),
            Err(TrySendError::Closed(())) => Err(shut_down(py)),
            Err(TrySendError::Fault((), fault)) => Err(errors::fault(py, fault)),
        }
    }

    /// All encoded before any is sent.
    pub(crate) fn encode_all(&self, items: &Bound<'_, PyAny>) -> PyResult<VecDeque<Encoded>> {
        items.try_iter()?.map(|item| self.codec.encode(&item?)).collect()
    }

    /// Sends the first of `items` for which there is room; whether some are left.
    pub(crate) fn try_offer_many(
        py: Python<'_>,
        opened: &Opened,
        items: &mut VecDeque<Encoded>,
    ) -> PyResult<bool> {
        while let Some(item) = items.front() {
            if !Self::try_offer(py, opened, item)? {
                return Ok(true);
            }
            items.pop_front();
        }
        Ok(false)
    }

    /// Takes what is there, until `items` are `most`; whether there are any. An error after the
    /// first item is for the next call to tell.
    pub(crate) fn try_take_many(
        &self,
        py: Python<'_>,
        opened: &Opened,
        most: usize,
        items: &mut Vec<Py<PyAny>>,
    ) -> PyResult<bool> {
        while items.len() < most {
            match self.try_take(py, opened) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) if items.is_empty() || !error.is_instance_of::<PyException>(py) => {
                    return Err(error);
                }
                Err(error) => {
                    opened.late.put(error);
                    break;
                }
            }
        }
        Ok(!items.is_empty())
    }

    /// Sends an item, waiting for room until `until`; whether there was.
    pub(crate) fn offer_until(
        py: Python<'_>,
        opened: &Opened,
        item: Encoded,
        until: Option<Instant>,
    ) -> PyResult<bool> {
        let sender = opened.sender(py)?;
        let side = sender.lock().side();
        let item = item.settle(py);
        let _counted = Counted::new(&opened.putters);
        let attempt = || match item.try_send(&mut sender.lock()) {
            Err(TrySendError::Full(())) => None,
            settled => Some(settled),
        };
        match blocking::wait(py, &side, Some(&opened.putting), until, attempt)? {
            Some(Ok(())) => Ok(true),
            None | Some(Err(TrySendError::Full(()))) => Ok(false),
            Some(Err(TrySendError::Closed(()))) => Err(shut_down(py)),
            Some(Err(TrySendError::Fault((), fault))) => Err(errors::fault(py, fault)),
        }
    }
}

/// Who is calling: the task, or outside of one the thread.
pub(crate) fn holder(py: Python<'_>) -> PyResult<u64> {
    static HOLDER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    HOLDER.import(py, "parkline._tasks", "holder")?.call0()?.extract()
}
