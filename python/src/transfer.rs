//! How items get into a queue and out of it: at once, and with a wait.
//!
//! A message is acknowledged, or kept on lease, after it was decoded. So the item is not lost when
//! something ends a get before it returns: a process that dies, an interrupt, or a decoding that fails.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parkline_uring::{Fault, Lease, RecvError, SendError, TryRecvError};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use crate::encoded::Encoded;
use crate::lease::DeadLetter;
use crate::message::Message;
use crate::opened::{Inner, Left, Opened};
use crate::{blocking, errors};

/// The items of one call, and their leases, which are neither kept nor acknowledged yet.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Py<PyAny>>,
    leases: Vec<Lease>,
}

/// How a get hands over an item.
#[derive(Clone, Copy)]
pub(crate) enum As<'a> {
    /// As the item, which is done now or by `task_done`.
    Item,
    /// As a lease of the queue.
    Lease(&'a Arc<Inner>),
}

impl Opened {
    /// The item of a message. `None` if it was a dead letter, which its handler has.
    pub(crate) fn hand_over(
        self: &Arc<Self>,
        py: Python<'_>,
        message: Message,
        way: As<'_>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let Some((item, lease)) = self.decode(py, message, matches!(way, As::Lease(_)))? else {
            return Ok(None);
        };
        match way {
            As::Lease(queue) => {
                let leased = leased(queue, self, item, lease);
                Ok(Some(leased.into_py_any(py)?))
            }
            As::Item => {
                if let Some(lease) = lease {
                    self.keep(&holder(py)?, [lease]);
                }
                Ok(Some(item))
            }
        }
    }

    /// Takes an item if there is one.
    pub(crate) fn try_take(
        self: &Arc<Self>,
        py: Python<'_>,
        way: As<'_>,
    ) -> PyResult<Option<Py<PyAny>>> {
        loop {
            let taken = match self.late.take() {
                Some(left) => self.take_left(py, left, way)?,
                None => match self.try_take_message(py)? {
                    Some(message) => self.hand_over(py, message, way)?,
                    None => return Ok(None),
                },
            };
            // Without an item that was a dead letter.
            if taken.is_some() {
                return Ok(taken);
            }
        }
    }

    /// Takes an item, waiting for it until `until`.
    ///
    /// # Errors
    /// As a get: `Empty` too.
    pub(crate) fn take_waiting(
        self: &Arc<Self>,
        py: Python<'_>,
        until: Option<Instant>,
        way: As<'_>,
    ) -> PyResult<Py<PyAny>> {
        loop {
            let message = match self.take_until(py, until)? {
                Some(message) => message,
                None => self.take_at_last(py)?,
            };
            if let Some(item) = self.hand_over(py, message, way)? {
                return Ok(item);
            }
        }
    }

    /// What a get raises that has no item and does not wait: there is none, or this handle can take none.
    /// A message that came just now is returned instead.
    pub(crate) fn take_at_last(&self, py: Python<'_>) -> PyResult<Message> {
        if self.queue.leases() > 0 && !self.queue.is_empty() {
            let attempt = self.attempt(&mut self.receiver(py)?.lock());
            match attempt {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Fault(Fault::LeasesOut { max })) => {
                    let text = format!(
                        "items wait, but all {max} leases of this handle are out: end one (done(), nack() or \
                         task_done()), or make the queue with more `leases`"
                    );
                    return Err(errors::leases_out(py, (text,)));
                }
                Err(_) => {}
            }
        }
        Err(errors::empty(py, ()))
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
        self: &Arc<Self>,
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

    fn take_until_one_fails(
        self: &Arc<Self>,
        py: Python<'_>,
        most: usize,
        batch: &mut Batch,
    ) -> PyResult<()> {
        // A limit, because other processes may go on putting items.
        let most = most.min(self.queue.capacity());
        while batch.items.len() < most {
            if let Some(left) = self.late.take() {
                batch.items.extend(self.take_left(py, left, As::Item)?);
                continue;
            }
            let Some(message) = self.try_take_message(py)? else { break };
            self.add(py, message, batch)?;
        }
        Ok(())
    }

    /// Adds the item of `message` to `batch`, if it is no dead letter.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub(crate) fn add(&self, py: Python<'_>, message: Message, batch: &mut Batch) -> PyResult<()> {
        if let Some((item, lease)) = self.decode(py, message, false)? {
            batch.items.push(item);
            batch.leases.extend(lease);
        }
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

    fn take_left(
        self: &Arc<Self>,
        py: Python<'_>,
        left: Left,
        way: As<'_>,
    ) -> PyResult<Option<Py<PyAny>>> {
        match (left, way) {
            (Left::Item(item), As::Item) => Ok(Some(item)),
            (Left::Item(item), As::Lease(queue)) => {
                leased(queue, self, item, None).into_py_any(py).map(Some)
            }
            (Left::Message(bytes), way) => self.hand_over(py, Message::Copied(bytes), way),
            (Left::Error(error), _) => Err(error),
        }
    }

    /// The item of `message`, and the lease that is to be kept until the item is done: in a joinable
    /// queue, and for a get that `leases`. `None` if it was a dead letter, which its handler has.
    ///
    /// # Errors
    /// `Undecodable`, or an interrupt, after which the message is back in the queue. What the handler
    /// raises, after which the dead letter is back.
    fn decode(
        &self,
        py: Python<'_>,
        message: Message,
        leases: bool,
    ) -> PyResult<Option<(Py<PyAny>, Option<Lease>)>> {
        let message = match message {
            Message::Leased(lease) if u32::from(lease.attempts()) > self.max_attempts => {
                match self.bury(py, lease)? {
                    Some(lease) => Message::Leased(lease),
                    None => return Ok(None),
                }
            }
            message => message,
        };
        let keeps = self.joinable || leases;
        self.note_attempts(&message);
        let copied = self.codec.copy(py, &message);
        let item = match copied.and_then(|copied| self.codec.decode(copied)) {
            Ok(item) => item.unbind(),
            Err(error) => return Err(self.refuse(py, message, keeps, error)),
        };
        match message {
            Message::Leased(lease) if keeps => Ok(Some((item, Some(lease)))),
            message => {
                message.ack();
                Ok(Some((item, None)))
            }
        }
    }

    /// Gives a dead letter to the handler. Returns it, if there is no handler: then it is an item like
    /// others, because the queue that takes dead letters could not take it.
    ///
    /// # Errors
    /// What the handler raises: the letter goes back.
    #[cold]
    fn bury(&self, py: Python<'_>, lease: Lease) -> PyResult<Option<Lease>> {
        let Some(handler) = self.handler(py) else { return Ok(Some(lease)) };
        let (id, attempts) = (lease.id(), lease.attempts().into());
        let message = Message::Leased(lease);
        let fill =
            |to: &mut [u8]| message.copy_from(0, to).map_err(|fault| errors::fault(py, fault));
        let encoded = PyBytes::new_with(py, message.len(), fill)?;
        handler.call1(py, (DeadLetter::new(encoded.unbind(), id, attempts, &self.codec),))?;
        if let Message::Leased(lease) = message {
            lease.ack_dead();
        }
        Ok(None)
    }

    /// Handles a message that could not be decoded, because of `error`: returns the error to raise.
    #[cold]
    fn refuse(&self, py: Python<'_>, message: Message, keeps: bool, error: PyErr) -> PyErr {
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
            Message::Leased(lease) if keeps => {
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
    ///
    /// # Errors
    /// `MessageTooLarge`, and what the encoding raises.
    pub(crate) fn encode_all(&self, items: &Bound<'_, PyAny>) -> PyResult<VecDeque<Encoded>> {
        let max = self.queue.max_message();
        let encode = |item| {
            let (py, item) = (items.py(), self.codec.encode(&item)?);
            match item.len(py) {
                len if len > max => Err(errors::fault(py, Fault::MessageTooLarge { len, max })),
                _ => Ok(item),
            }
        };
        items.try_iter()?.map(|item| item.and_then(encode)).collect()
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

/// The lease of an item; without one of core's, the item was done before.
fn leased(
    queue: &Arc<Inner>,
    opened: &Arc<Opened>,
    item: Py<PyAny>,
    lease: Option<Lease>,
) -> crate::lease::Lease {
    crate::lease::Lease::new(queue, opened, item, lease)
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
