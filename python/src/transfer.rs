//! How items get into a queue and out of it: at once, and with a wait.
//!
//! A message is acknowledged, or kept on lease, after it was decoded. So the item is not lost when
//! something ends a get before it returns: a process that dies, an interrupt, or a decoding that fails.

use std::collections::VecDeque;
use std::time::Instant;

use parkline_uring::{Fault, Lease, RecvError, SendError, TryRecvError};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use crate::encoded::Encoded;
use crate::message::Message;
use crate::opened::{Left, Opened};
use crate::{blocking, errors};

/// The items of one call, and their leases, which are neither kept nor acknowledged yet.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Py<PyAny>>,
    leases: Vec<Lease>,
}

impl Opened {
    /// The item of a message, which is acknowledged or kept on lease.
    pub(crate) fn hand_over(&self, py: Python<'_>, message: Message) -> PyResult<Py<PyAny>> {
        let (item, lease) = self.decode(py, message)?;
        if let Some(lease) = lease {
            self.keep(&holder(py)?, [lease]);
        }
        Ok(item)
    }

    /// Takes an item if there is one.
    pub(crate) fn try_take(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if let Some(left) = self.late.take() {
            return self.take_left(py, left).map(Some);
        }
        let message = self.try_take_message(py)?;
        message.map(|message| self.hand_over(py, message)).transpose()
    }

    /// Takes an item, waiting for it until `until`.
    pub(crate) fn take_until(
        &self,
        py: Python<'_>,
        until: Option<Instant>,
    ) -> PyResult<Option<Message>> {
        let receiver = self.receiver(py)?;
        let side = |waits_for| receiver.lock().side_for(waits_for);
        let attempt = || self.answer(receiver);
        let answer = blocking::wait_where(py, side, Some(&self.getters), until, attempt)?;
        answer.transpose().map_err(|error| refused(py, error))
    }

    /// Takes the items that are there into `batch`, until it has `most`, or as many as the queue has room
    /// for.
    ///
    /// # Errors
    /// If this call got items before (`has_some`), or some are in `batch` now, the next call raises the
    /// error. An interrupt is raised at once, and nothing of the batch is lost.
    pub(crate) fn take_more(
        &self,
        py: Python<'_>,
        most: usize,
        batch: &mut Batch,
        has_some: bool,
    ) -> PyResult<()> {
        let taken = self.take_until_one_fails(py, most, batch);
        let settled = taken.and_then(|()| self.settle(py, batch));
        let Err(error) = settled else { return Ok(()) };
        if !error.is_instance_of::<PyException>(py) {
            // The leases go back into the queue.
            if batch.leases.is_empty() {
                self.late.put(batch.items.drain(..).map(Left::Item));
            }
            *batch = Batch::default();
            return Err(error);
        }
        if !has_some && batch.items.is_empty() {
            return Err(error);
        }
        self.settle(py, batch)?;
        // The next call meets every other error again.
        if errors::is_undecodable(py, &error) {
            self.late.put([Left::Error(error)]);
        }
        Ok(())
    }

    fn take_until_one_fails(&self, py: Python<'_>, most: usize, batch: &mut Batch) -> PyResult<()> {
        // A limit, because other processes may go on putting items.
        let most = most.min(self.queue.capacity());
        while batch.items.len() < most {
            if let Some(left) = self.late.take() {
                let item = self.take_left(py, left)?;
                batch.items.push(item);
                continue;
            }
            let Some(message) = self.try_take_message(py)? else { break };
            self.add(py, message, batch)?;
        }
        Ok(())
    }

    /// Adds the item of `message` to `batch`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub(crate) fn add(&self, py: Python<'_>, message: Message, batch: &mut Batch) -> PyResult<()> {
        let (item, lease) = self.decode(py, message)?;
        batch.items.push(item);
        batch.leases.extend(lease);
        Ok(())
    }

    fn try_take_message(&self, py: Python<'_>) -> PyResult<Option<Message>> {
        let receiver = self.receiver(py)?;
        let taken = self.attempt(&mut receiver.lock());
        match taken {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty | TryRecvError::Fault(Fault::LeasesOut { .. }))
                if !self.queue.is_closed() =>
            {
                Ok(None)
            }
            // Without the GIL, because the answer asks the kernel which processes have died.
            Err(_) => {
                let answer = py.detach(|| self.answer(receiver));
                answer.break_value().transpose().map_err(|error| refused(py, error))
            }
        }
    }

    fn take_left(&self, py: Python<'_>, left: Left) -> PyResult<Py<PyAny>> {
        match left {
            Left::Item(item) => Ok(item),
            Left::Message(bytes) => self.hand_over(py, Message::Copied(bytes)),
            Left::Error(error) => Err(error),
        }
    }

    /// The item of `message`, and the lease that is to be kept until the item is done.
    ///
    /// # Errors
    /// `Undecodable`, or an interrupt, after which the message is back in the queue.
    fn decode(&self, py: Python<'_>, message: Message) -> PyResult<(Py<PyAny>, Option<Lease>)> {
        self.note_attempts(&message);
        let copied = self.codec.copy(py, &message);
        let item = match copied.and_then(|copied| self.codec.decode(copied)) {
            Ok(item) => item.unbind(),
            Err(error) => return Err(self.refuse(py, message, error)),
        };
        match message {
            Message::Leased(lease) if self.joinable => Ok((item, Some(lease))),
            message => {
                message.ack();
                Ok((item, None))
            }
        }
    }

    /// Handles a message that could not be decoded, because of `error`: returns the error to raise.
    #[cold]
    fn refuse(&self, py: Python<'_>, message: Message, error: PyErr) -> PyErr {
        let is_interrupt = !error.is_instance_of::<PyException>(py);
        let bytes = if is_interrupt { None } else { self.bytes_of(py, &message) };
        let (Some(bytes), attempts) = (bytes, message.attempts()) else {
            // A dropped lease returns its message.
            if let Message::Copied(bytes) = message {
                self.late.put([Left::Message(bytes)]);
            }
            return error;
        };
        let len = message.len();
        let fate = match message {
            Message::Leased(lease) if self.joinable => {
                lease.nack();
                "it went back into the queue, and comes again; its bytes are in `encoded`"
            }
            message => {
                message.ack();
                "it is not in the queue any more; its bytes are in `encoded`"
            }
        };
        let text = format!("an item of {len} bytes cannot be decoded: {error}; {fate}");
        let undecodable = errors::undecodable(py, (text, bytes.unbind(), attempts));
        undecodable.set_cause(py, Some(error));
        undecodable
    }

    /// The message as it is, if there is the memory for it.
    fn bytes_of<'py>(&self, py: Python<'py>, message: &Message) -> Option<Bound<'py, PyBytes>> {
        let fill =
            |to: &mut [u8]| message.copy_from(0, to).map_err(|fault| errors::fault(py, fault));
        PyBytes::new_with(py, message.len(), fill).ok()
    }

    /// Keeps the leases of `batch`.
    fn settle(&self, py: Python<'_>, batch: &mut Batch) -> PyResult<()> {
        if !batch.leases.is_empty() {
            self.keep(&holder(py)?, batch.leases.drain(..));
        }
        Ok(())
    }

    /// Sends an item if there is room.
    pub(crate) fn try_offer(&self, py: Python<'_>, item: &Encoded) -> PyResult<bool> {
        let answer = self.sender(py)?.lock().answer(|to| item.try_send(py, to));
        was_sent(py, answer.break_value())
    }

    /// Encodes all items before any is sent.
    pub(crate) fn encode_all(&self, items: &Bound<'_, PyAny>) -> PyResult<VecDeque<Encoded>> {
        items.try_iter()?.map(|item| self.codec.encode(&item?)).collect()
    }

    /// Sends `items` in order while there is room; `true` if some are left.
    pub(crate) fn try_offer_many(
        &self,
        py: Python<'_>,
        items: &mut VecDeque<Encoded>,
    ) -> PyResult<bool> {
        while let Some(item) = items.front() {
            if !self.try_offer(py, item)? {
                return Ok(true);
            }
            items.pop_front();
        }
        Ok(false)
    }

    /// Sends an item, waiting for room until `until`; `false` if there was none.
    pub(crate) fn offer_until(
        &self,
        py: Python<'_>,
        item: Encoded,
        until: Option<Instant>,
    ) -> PyResult<bool> {
        let sender = self.sender(py)?;
        let item = item.settle(py);
        let side = |()| sender.lock().side();
        let attempt = || sender.lock().answer(|to| item.try_send(to));
        was_sent(py, blocking::wait_where(py, side, Some(&self.putters), until, attempt)?)
    }
}

/// Whether a put sent its item: not if it has no answer, because there was no room.
fn was_sent(py: Python<'_>, answer: Option<Result<(), SendError>>) -> PyResult<bool> {
    answer.transpose().map(|sent| sent.is_some()).map_err(|error| not_sent(py, error))
}

/// What a put raises that was refused.
pub(crate) fn not_sent(py: Python<'_>, error: SendError) -> PyErr {
    match error {
        SendError::Closed(()) => shut_down(py),
        SendError::Fault((), fault) => errors::fault(py, fault),
    }
}

/// The error of a get that has no message.
pub(crate) fn refused(py: Python<'_>, error: RecvError) -> PyErr {
    match error {
        RecvError::Closed => shut_down(py),
        RecvError::Fault(fault) => errors::fault(py, fault),
    }
}

/// The calling task, or outside of a task the calling thread.
pub(crate) fn holder(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static HOLDER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    HOLDER.import(py, "parkline._tasks", "holder")?.call0()
}

pub(crate) fn shut_down(py: Python<'_>) -> PyErr {
    errors::shut_down(py, ("the queue is shut down",))
}
