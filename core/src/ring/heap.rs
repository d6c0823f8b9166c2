//! A ring on the heap: the same words and the same algorithm, without a kernel. For loom and for
//! fuzzing.
#![expect(unsafe_code, reason = "ties a port to the ring that it borrows from")]

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Corrupt, CreateError, Fault, TryRecvError, TrySendError};
use crate::ring::census::Census;
use crate::ring::control::{Control, Record};
use crate::ring::finding::Finding;
use crate::ring::frame::{Block, Frame};
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
    finding: Finding,
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
    /// Those of [`Builder::create`](crate::Builder::create) that are about the numbers.
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
            finding: Finding::default(),
            control: Control::new(),
            slots: words(geometry.capacity()),
            records: (0..handles).map(|_| Record::new()).collect(),
            cells: words(handles * geometry.cell_stride()),
            blocks: words(geometry.blocks() * geometry.block_words()),
        };
        heap.ring().lay_out();
        heap
    }

    /// Audits handle `id`, whose user has stopped for ever, and gives back what it held: how many
    /// messages went back and how many found no room. `None` if the audit must wait for another.
    pub fn recover(&self, id: u32) -> Option<(usize, usize)> {
        let port = Port::take_over(self.ring(), id).ok()??;
        Some(port.give_all_back())
    }

    /// Where the blocks are.
    ///
    /// # Errors
    /// When one is in two places or in none, and no handle is busy.
    pub fn census(&self) -> Result<Census, Corrupt> {
        Census::of(&self.ring())
    }

    /// The place of handle `id`, which nobody else may use meanwhile; `None` if it does not exist
    /// or its audit must wait for another.
    pub fn port(&self, id: u32) -> Option<HeapPort<'_>> {
        HeapPort::new(Port::take_over(self.ring(), id).ok()??, None)
    }

    /// The same for two threads: one that sends and receives, and one that returns.
    pub fn port_for_two(self: &Arc<Self>, id: u32) -> Option<(HeapPort<'static>, HeapReturns)> {
        // SAFETY: the same type but for the lifetime. The ring lies in an `Arc` that both results
        // keep, and drop after the port; neither hands out anything that borrows from it.
        let ring = unsafe { core::mem::transmute::<Ring<'_>, Ring<'static>>(self.ring()) };
        let port = HeapPort::new(Port::take_over(ring, id).ok()??, Some(Arc::clone(self)))?;
        let returns = HeapReturns { port: Arc::clone(&port.port), _ring: Arc::clone(self) };
        Some((port, returns))
    }

    /// Where receivers wait.
    pub fn readable(&self) -> &Gate {
        &self.control.after_send.readable
    }

    /// Where senders wait.
    pub fn writable(&self) -> &Gate {
        &self.control.after_recv.writable
    }

    /// Where those who join wait.
    pub fn acknowledged(&self) -> &Gate {
        &self.control.after_recv.acknowledged
    }

    /// A join of all that was sent so far.
    #[expect(clippy::expect_used, reason = "nobody else writes to the ring of a model")]
    pub fn join(&self) -> HeapJoin<'_> {
        let join = self.ring().begin_join();
        HeapJoin { ring: self.ring(), join: join.expect("nobody scribbles on a private ring") }
    }

    /// Handle `id` begins to be one of process `pid`. The caller carries out the wakes.
    pub fn arrive(&self, id: usize, pid: u32) -> Vec<Wake<'_>> {
        if let Some(record) = self.records.get(id) {
            record.name(pid);
        }
        self.control.announce_arrival().collect()
    }

    /// A number that moves with every handle that arrives.
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

    /// Whether a receive would find something to do.
    pub fn is_readable(&self) -> bool {
        self.ring().is_ready(Verb::Recv, None)
    }

    /// Whether a send would find something to do.
    pub fn is_writable(&self) -> bool {
        self.ring().is_ready(Verb::Send, None)
    }

    pub(crate) fn ring(&self) -> Ring<'_> {
        Ring {
            geometry: self.geometry,
            finding: &self.finding,
            control: &self.control,
            slots: &self.slots,
            records: &self.records,
            cells: &self.cells,
            blocks: &self.blocks,
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
    /// Whether all is acknowledged.
    pub fn is_done(&mut self) -> bool {
        self.ring.is_joined(&mut self.join).unwrap_or(false)
    }
}

/// One handle's place at a [`HeapRing`]. The caller carries out the wakes.
pub struct HeapPort<'a> {
    port: Arc<Port<'a>>,
    send_at: Position,
    recv_at: Position,
    /// Dropped after the port.
    _ring: Option<Arc<HeapRing>>,
}

/// What another thread of the process may do at a [`HeapPort`].
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
    /// Gives back what `cell` holds; `false` if the ring is full, and it is owed.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub fn give_back(&self, cell: usize) -> Result<bool, Fault> {
        give_back(&self.port, cell)
    }

    /// Acknowledges what `cell` holds.
    pub fn acknowledge(&self, cell: usize) {
        self.port.acknowledge(cell);
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
        ring.has_ended(|| matches!(ring.turn(Verb::Recv, at), Err(Stop::Closed)))
    }

    /// Commits `message`, or refuses it.
    ///
    /// # Errors
    /// As [`Sender::try_send`](crate::Sender::try_send).
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), TrySendError> {
        self.port.write(message).map_err(|fault| TrySendError::Fault((), fault))?;
        self.port.send(&mut self.send_at).map_err(TrySendError::from)
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

    /// As [`try_recv`](Self::try_recv), but not acknowledged: the cell that holds it, too.
    ///
    /// # Errors
    /// As [`Receiver::try_lease`](crate::Receiver::try_lease).
    pub fn try_hold(&mut self) -> Result<(usize, Vec<u8>), TryRecvError> {
        self.try_hold_or(|| {})
    }

    /// As [`try_hold`](Self::try_hold); `on_lost` notifies those who join, when they may have seen
    /// us in the midst of it in vain.
    ///
    /// # Errors
    /// As [`Receiver::try_lease`](crate::Receiver::try_lease).
    pub fn try_hold_or(
        &mut self,
        on_lost: impl FnOnce(),
    ) -> Result<(usize, Vec<u8>), TryRecvError> {
        let cell = self.port.free_cell(0, 0)?;
        let block = self.port.recv(cell, &mut self.recv_at, on_lost)?;
        let frame = self.port.frame(cell).inspect_err(|_| cell.acknowledge());
        let frame = frame.map_err(Fault::from)?;
        let mut message = vec![0; frame.len()];
        block.read(&mut message);
        Ok((cell.number(), message))
    }

    /// Acknowledges what `cell` holds. The caller notifies those who join.
    pub fn acknowledge(&self, cell: usize) {
        self.port.acknowledge(cell);
    }

    /// Whether the message that `cell` holds is flagged as one that came back.
    pub fn comes_again(&self, cell: usize) -> bool {
        let frame = self.port.cell(cell).and_then(|cell| self.port.frame(cell));
        frame.is_ok_and(|frame| frame.redelivered())
    }

    /// Gives back what `cell` holds; `false` if the ring is full, and it is owed.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub fn give_back(&self, cell: usize) -> Result<bool, Fault> {
        give_back(&self.port, cell)
    }

    /// Returns what is owed; how many messages went.
    pub fn return_owed(&self) -> usize {
        self.port.return_owed(|_| false)
    }

    /// Takes one owed message to receive it again: the cell that holds it.
    pub fn take_owed(&self) -> Option<usize> {
        self.port.take_owed(|_| false).map(Cell::number)
    }
}

/// Reads any bytes as a block: its frame's header and payload, or why it is none. For fuzzing.
///
/// # Errors
/// [`Fault::Corrupt`] when the bytes are no frame.
pub fn decode_block(words: &[u64], max_message: usize) -> Result<(Frame, Vec<u8>), Fault> {
    let words: Vec<_> = words.iter().map(|word| AtomicU64::new(*word)).collect();
    let missing = Corrupt { what: "a block has no room for a header" };
    let block = Block::new(&words).ok_or(missing)?;
    let frame = block.frame(max_message)?;
    let mut payload = vec![0; frame.len()];
    block.read(&mut payload);
    Ok((frame, payload))
}
