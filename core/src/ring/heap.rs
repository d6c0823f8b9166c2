//! A ring on the heap: the same words and the same algorithm, without a kernel. For
//! loom.
#![expect(unsafe_code, reason = "ties a port to the ring that it borrows from")]

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Corrupt, CreateError, Fault, TryRecvError, TrySendError};
use crate::ring::arrays::{Blocks, Slots};
use crate::ring::census::Census;
use crate::ring::condition::Condition;
use crate::ring::control::{Control, Record};
use crate::ring::geometry::{Geometry, Share, Wishes};
use crate::ring::join::Join;
use crate::ring::port::{Cell, Port};
use crate::ring::position::Position;
use crate::ring::slot::Verb;
use crate::ring::slots::{Ring, Stop};
use crate::sync::AtomicU64;
use crate::wait::gate::{Gate, Wake};

/// The shared words of a queue in private memory.
#[derive(Debug)]
pub struct HeapRing {
    geometry: Geometry,
    condition: Condition,
    control: Control,
    slots: Vec<AtomicU64>,
    records: Vec<Record>,
    cells: Vec<AtomicU64>,
    blocks: Vec<AtomicU64>,
}

impl HeapRing {
    /// A new queue for `handles` ports, each with one block to work with and one lease.
    ///
    /// # Errors
    /// Those of [`Builder::create`](crate::Builder::create) that concern the numbers.
    pub fn new(capacity: usize, max_message: usize, handles: usize) -> Result<Self, CreateError> {
        let watchdog = Duration::from_millis(100);
        let wishes = Wishes {
            capacity,
            max_message,
            handles: Share::Asked(handles),
            leases: Share::Asked(1),
            lazy: false,
            watchdog,
            max_attempts: u16::MAX,
        };
        Ok(Self::of(Geometry::plan(wishes)?))
    }

    /// The words of a queue with this geometry.
    #[expect(clippy::arithmetic_side_effects, reason = "`plan` has found the products to fit")]
    pub(crate) fn of(geometry: Geometry) -> Self {
        let handles = geometry.handles() as usize;
        let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let heap = Self {
            geometry,
            condition: Condition::on_heap(),
            control: Control::new(),
            slots: words(geometry.capacity()),
            records: (0..handles).map(|_| Record::new()).collect(),
            cells: words(handles * geometry.cell_stride()),
            blocks: words(geometry.blocks() * geometry.block_words()),
        };
        heap.ring().lay_out();
        heap
    }

    /// Audits handle `id`, whose user has stopped for ever, and returns the messages that it held:
    /// how many went back and how many found no room. `None` if the audit must wait for another
    /// handle.
    pub fn recover(&self, id: u32) -> Option<(usize, usize)> {
        let port = Port::take_over(self.ring(), id).ok()??;
        Some(port.give_all_back())
    }

    /// Counts the blocks.
    ///
    /// # Errors
    /// If no handle is busy, and a block is in two places or in none.
    pub fn census(&self) -> Result<Census, Corrupt> {
        Census::of(&self.ring())
    }

    /// The port of handle `id`, which no other thread may use meanwhile. `None` if the handle does
    /// not exist or its audit must wait for another.
    pub fn port(&self, id: u32) -> Option<HeapPort<'_>> {
        HeapPort::new(Port::take_over(self.ring(), id).ok()??, None)
    }

    /// The same for two threads: one sends and receives, the other returns.
    pub fn port_for_two(self: &Arc<Self>, id: u32) -> Option<(HeapPort<'static>, HeapReturns)> {
        // SAFETY: only the lifetime changes. The ring lies in an `Arc` that both results keep and
        // drop after the port. Neither hands out anything that borrows from the ring.
        let ring = unsafe { core::mem::transmute::<Ring<'_>, Ring<'static>>(self.ring()) };
        let port = HeapPort::new(Port::take_over(ring, id).ok()??, Some(Arc::clone(self)))?;
        let returns = HeapReturns { port: Arc::clone(&port.port), _ring: Arc::clone(self) };
        Some((port, returns))
    }

    /// The gate of receivers.
    pub fn readable(&self) -> &Gate {
        &self.control.after_send.readable
    }

    /// The gate of senders.
    pub fn writable(&self) -> &Gate {
        &self.control.after_recv.writable
    }

    /// The gate of joiners.
    pub fn acknowledged(&self) -> &Gate {
        &self.control.after_recv.acknowledged
    }

    /// A join of all messages sent so far.
    #[expect(clippy::expect_used, reason = "nobody else writes to the ring of a model")]
    pub fn join(&self) -> HeapJoin<'_> {
        let join = self.ring().begin_join();
        HeapJoin { ring: self.ring(), join: join.expect("nobody scribbles on a private ring") }
    }

    /// Handle `id` arrives as one of process `pid`. The caller carries out the wake-ups.
    pub fn arrive(&self, id: usize, pid: u32) -> Vec<Wake<'_>> {
        if let Some(record) = self.records.get(id) {
            record.name(pid);
        }
        self.control.announce_arrival().collect()
    }

    /// A number that changes with every handle that arrives.
    pub fn arrivals(&self) -> u32 {
        self.control.arrivals()
    }

    /// The process of handle `id`.
    pub fn process(&self, id: usize) -> Option<u32> {
        self.records.get(id)?.process()
    }

    /// Refuses all further sends. The caller wakes both gates.
    pub fn close(&self) {
        let closed = self.ring().close();
        debug_assert!(closed.is_ok(), "nobody scribbles on a private ring: {closed:?}");
    }

    /// How many messages are waiting.
    pub fn len(&self) -> usize {
        self.ring().len().map_or(0, |len| len as usize)
    }

    /// Whether no message is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a receive would be answered now.
    pub fn is_readable(&self) -> bool {
        self.ring().is_ready(Verb::Recv, None)
    }

    /// Whether a send would be answered now.
    pub fn is_writable(&self) -> bool {
        self.ring().is_ready(Verb::Send, None)
    }

    pub(crate) fn ring(&self) -> Ring<'_> {
        Ring {
            geometry: self.geometry,
            condition: &self.condition,
            usual: self.condition.word(),
            control: &self.control,
            slots: Slots::new(&self.slots, self.geometry.laps()),
            records: &self.records,
            cells: &self.cells,
            blocks: Blocks::new(&self.blocks, self.geometry.blocks(), self.geometry.block_words()),
        }
    }
}

/// A join under way.
pub struct HeapJoin<'a> {
    ring: Ring<'a>,
    join: Join,
}

impl core::fmt::Debug for HeapJoin<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HeapJoin").field("join", &self.join).finish_non_exhaustive()
    }
}

impl HeapJoin<'_> {
    /// Whether all messages of the join are acknowledged.
    pub fn is_done(&mut self) -> bool {
        self.ring.is_joined(&mut self.join).unwrap_or(false)
    }
}

/// One handle's access to a [`HeapRing`]. The caller carries out the wake-ups.
pub struct HeapPort<'a> {
    port: Arc<Port<'a>>,
    send_at: Position,
    recv_at: Position,
    /// Dropped after the port.
    _ring: Option<Arc<HeapRing>>,
}

/// What another thread may do with the port of a [`HeapPort`].
pub struct HeapReturns {
    port: Arc<Port<'static>>,
    /// Dropped after the port.
    _ring: Arc<HeapRing>,
}

impl core::fmt::Debug for HeapReturns {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HeapReturns").field("id", &self.port.id()).finish_non_exhaustive()
    }
}

impl HeapReturns {
    /// Returns the message in `cell`; `false` if the ring is full and the message is owed.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub fn give_back(&self, cell: usize) -> Result<bool, Fault> {
        give_back(&self.port, cell)
    }

    /// Acknowledges the message in `cell`.
    pub fn acknowledge(&self, cell: usize) {
        if let Ok(cell) = self.port.cell(cell) {
            cell.acknowledge();
        }
    }
}

fn give_back(port: &Port<'_>, cell: usize) -> Result<bool, Fault> {
    let cell = port.cell(cell)?;
    port.give_back(cell, port.frame(cell)?)
}

impl core::fmt::Debug for HeapPort<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HeapPort").field("id", &self.port.id()).finish_non_exhaustive()
    }
}

impl<'a> HeapPort<'a> {
    fn new(port: Port<'a>, _ring: Option<Arc<HeapRing>>) -> Option<Self> {
        let (send_at, recv_at) = (port.start(Verb::Send).ok()?, port.start(Verb::Recv).ok()?);
        Some(Self { port: Arc::new(port), send_at, recv_at, _ring })
    }

    /// Whether a closed queue has ended.
    pub fn has_ended(&mut self) -> bool {
        let ring = *self.port.ring();
        let at = &mut self.recv_at;
        ring.has_ended(|| matches!(ring.advance(Verb::Recv, at), Err(Stop::Closed)))
    }

    /// Commits `message`, or refuses it.
    ///
    /// # Errors
    /// As [`Sender::try_send`](crate::Sender::try_send).
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), TrySendError> {
        let cell = self.port.send_cell();
        self.port.write(cell, message).map_err(|fault| TrySendError::Fault((), fault))?;
        self.port.send(cell, &mut self.send_at).map_err(TrySendError::from)
    }

    /// Takes the oldest message.
    ///
    /// # Errors
    /// As [`Receiver::try_recv`](crate::Receiver::try_recv).
    pub fn try_recv(&mut self) -> Result<Vec<u8>, TryRecvError> {
        let (cell, message) = self.try_hold()?;
        self.acknowledge(cell);
        Ok(message)
    }

    /// As [`try_recv`](Self::try_recv), without the acknowledgement. Also returns the number of the
    /// cell that holds the message.
    ///
    /// # Errors
    /// As [`Receiver::try_lease`](crate::Receiver::try_lease).
    pub fn try_hold(&mut self) -> Result<(usize, Vec<u8>), TryRecvError> {
        self.try_hold_or(|| {})
    }

    /// As [`try_hold`](Self::try_hold). `on_lost` notifies the joiners that may have seen the
    /// announcement of a receive that then failed.
    ///
    /// # Errors
    /// As [`Receiver::try_lease`](crate::Receiver::try_lease).
    pub fn try_hold_or(
        &mut self,
        on_lost: impl FnOnce(),
    ) -> Result<(usize, Vec<u8>), TryRecvError> {
        let cell = self.port.free_cell(0)?;
        let block = self.port.recv(cell, &mut self.recv_at, on_lost)?;
        let frame = self.port.frame(cell).inspect_err(|_| cell.acknowledge());
        let frame = frame.map_err(Fault::from)?;
        let mut message = vec![0; frame.len()];
        block.read(&mut message);
        Ok((cell.number(), message))
    }

    /// Acknowledges the message in `cell`. The caller notifies the joiners.
    pub fn acknowledge(&self, cell: usize) {
        if let Ok(cell) = self.port.cell(cell) {
            cell.acknowledge();
        }
    }

    /// Whether the message in `cell` is flagged as redelivered.
    pub fn comes_again(&self, cell: usize) -> bool {
        let frame = self.port.cell(cell).and_then(|cell| self.port.frame(cell));
        frame.is_ok_and(|frame| frame.redelivered())
    }

    /// The id of the message in `cell`.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub fn id_of(&self, cell: usize) -> Result<u64, Fault> {
        Ok(self.port.block_of(self.port.cell(cell)?)?.id())
    }

    /// Returns the message in `cell`; `false` if the ring is full and the message is owed.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub fn give_back(&self, cell: usize) -> Result<bool, Fault> {
        give_back(&self.port, cell)
    }

    /// Returns owed messages: how many went.
    pub fn return_owed(&self) -> usize {
        self.port.return_owed(|_| false)
    }

    /// Takes one owed message to receive it again: the number of its cell.
    pub fn take_owed(&self) -> Option<usize> {
        self.port.take_owed(|_| false).map(Cell::number)
    }
}
