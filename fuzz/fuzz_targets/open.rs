//! A segment from a hostile creator or with a hostile peer: it is refused when it is opened, or
//! every operation on it ends, within bounds, in an answer.
//!
//! A peer may write any word at any time, but random words are refused at once and test little. So
//! the segment starts as an honest one, or with a header that claims any shape, and single words
//! turn into others that look like words of the protocol, between the operations.
//!
//! Found: a block's number not checked (4 s), claims whose product overflows (2 s), a frame's
//! length not checked (35 s).
#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use memfd::{FileSeal, MemfdOptions};
use parkline_core::{
    Lease, OpenError, Queue, Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError,
};

/// Where the parts of a segment begin: see `geometry.rs`.
const GATES_AT: u64 = 1024;
const SLOTS_AT: u64 = 4096;
/// No larger segment is made: the claims may ask for terabytes.
const MAX_LEN: u64 = 1 << 20;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Any bytes.
    Raw(&'a [u8]),
    /// A shape that the creator claims, in a file of just the length for it.
    Claimed(Claims, Vec<Step>),
    /// An honest queue.
    Honest(Shape, Vec<Step>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Claims {
    capacity_log2: Number,
    handles: Number,
    leases: Number,
    max_message: Number,
    watchdog_micros: Number,
    typed: Option<u32>,
}

/// Most are small, so that some segments open; the others lie where sums and products overflow.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Small(u8),
    Thousands(u8),
    Beside { power: u8, off: i8 },
    Any(u64),
}

impl Number {
    fn get(self) -> u64 {
        match self {
            Self::Small(n) => n.into(),
            Self::Thousands(n) => u64::from(n) * 1000,
            Self::Beside { power, off } => (1u64 << (power % 64)).wrapping_add_signed(off.into()),
            Self::Any(n) => n,
        }
    }
}

#[derive(Debug)]
struct Shape {
    capacity: usize,
    max_message: usize,
    handles: usize,
    leases: usize,
}

impl<'a> Arbitrary<'a> for Shape {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            capacity: 1 << input.int_in_range(0..=4)?,
            max_message: input.int_in_range(0..=300)?,
            handles: input.int_in_range(1..=4)?,
            leases: input.int_in_range(0..=3)?,
        })
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Scribble(Place, Word),
    Sender,
    Receiver,
    DropSender(u8),
    DropReceiver(u8),
    Send(u8, u16),
    SendMany(u8, u8),
    SendInTime(u8),
    Reserve { who: u8, len: u16, shorter: u16, commit: bool },
    Recv(u8),
    RecvMany(u8, u8),
    RecvInTime(u8),
    Lease(u8),
    Read(u8),
    Ack(u8),
    Nack(u8),
    Ask(u8),
    Close,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Anywhere(u32),
    Gate(u8),
    Slot(u8),
    /// Behind the slots: records, cells.
    Owned(u8),
    /// The header of a frame.
    Frame(u8),
}

#[derive(Arbitrary, Debug)]
enum Word {
    Any(u64),
    Small(u16),
    Slot {
        lap: i8,
        state: u8,
        block: u8,
    },
    Cell {
        block: u8,
        held: bool,
    },
    /// One that is well formed, but for its length.
    Frame {
        len: u16,
        redelivered: bool,
        attempts: i8,
    },
    CopyOf(Place),
}

/// The queue and all that is held of it.
struct World {
    file: File,
    len: u64,
    slots: u64,
    blocks_at: u64,
    stride: u64,
    queue: Queue,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    /// With the number of the receiver that took it.
    leases: Vec<(u64, Lease)>,
    /// The number of each receiver.
    numbers: Vec<u64>,
    started: u64,
}

fn memfd() -> File {
    let options = MemfdOptions::new().allow_sealing(true);
    options.create("fuzz").expect("a memfd").into_file()
}

fn sealed(file: File) -> OwnedFd {
    let memfd = memfd::Memfd::try_from_file(file).expect("made by us");
    let seals = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];
    memfd.add_seals(&seals).expect("not sealed before");
    memfd.into_file().into()
}

fn raw(bytes: &[u8]) -> Option<Queue> {
    let file = memfd();
    file.write_all_at(bytes, 0).expect("memory");
    Queue::open(sealed(file)).ok()
}

/// The queue of a header with these claims, if there is a length for which it opens.
fn claimed(claims: &Claims) -> Option<Queue> {
    let mut page = b"PARKLINE".to_vec();
    page.extend(1u32.to_ne_bytes());
    for narrow in [claims.capacity_log2, claims.handles, claims.leases] {
        page.extend((narrow.get() as u32).to_ne_bytes());
    }
    for wide in [claims.max_message, claims.watchdog_micros] {
        page.extend(wide.get().to_ne_bytes());
    }
    page.extend(claims.typed.unwrap_or(0).to_ne_bytes());
    page.resize(SLOTS_AT as usize, 0);
    let of_len = |len| {
        let file = memfd();
        file.write_all_at(&page, 0).expect("memory");
        file.set_len(len).expect("a length in range");
        Queue::open(sealed(file))
    };
    match of_len(SLOTS_AT) {
        Err(OpenError::WrongLength { expected, .. }) if expected <= MAX_LEN => {
            match of_len(expected) {
                Ok(queue) => Some(queue),
                Err(OpenError::WrongType { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        }
        Err(_) => None,
        Ok(_) => panic!("a header alone is no queue"),
    }
}

fn honest(shape: &Shape) -> Option<Queue> {
    let Shape { capacity, max_message, handles, leases } = *shape;
    let queue = Queue::builder().capacity(capacity).max_message(max_message).handles(handles);
    queue.leases(leases).create().ok()
}

impl World {
    fn new(queue: Queue) -> Self {
        let file = File::from(queue.try_clone_fd().expect("a descriptor"));
        let mut leases = [0; 4];
        file.read_exact_at(&mut leases, 20).expect("a header");
        let cells = u64::from(u32::from_ne_bytes(leases)) + 1;
        let handles = queue.handles() as u64;
        let slots = (queue.capacity() as u64 * 8).next_multiple_of(128);
        let owned = handles * (128 + (cells * 8).next_multiple_of(128));
        Self {
            len: file.metadata().expect("open").len(),
            slots,
            blocks_at: (SLOTS_AT + slots + owned).next_multiple_of(4096),
            stride: (queue.max_message() as u64 + 16).next_multiple_of(64),
            file,
            queue,
            senders: Vec::new(),
            receivers: Vec::new(),
            leases: Vec::new(),
            numbers: Vec::new(),
            started: 0,
        }
    }

    fn offset(&self, place: Place) -> u64 {
        let at = match place {
            Place::Anywhere(word) => u64::from(word) * 8,
            Place::Gate(index) => GATES_AT + u64::from(index % 8) * 64,
            Place::Slot(index) => SLOTS_AT + u64::from(index) % self.queue.capacity() as u64 * 8,
            Place::Frame(block) => self.blocks_at + u64::from(block) * self.stride + 8,
            Place::Owned(index) => SLOTS_AT + self.slots + u64::from(index) * 8,
        };
        at % self.len / 8 * 8
    }

    fn word(&self, word: &Word) -> u64 {
        match *word {
            Word::Any(bits) => bits,
            Word::Small(bits) => bits.into(),
            Word::Slot { lap, state, block } => {
                (i64::from(lap) << 22) as u64 | u64::from(state & 3) << 20 | u64::from(block)
            }
            Word::Cell { block, held } => u64::from(held) << 20 | u64::from(block),
            Word::Frame { len, redelivered, attempts } => {
                let flags = u64::from(redelivered) << 40 | 1 << 32;
                (i64::from(attempts) << 48) as u64 | flags | u64::from(len)
            }
            Word::CopyOf(place) => {
                let mut bytes = [0; 8];
                self.file.read_exact_at(&mut bytes, self.offset(place)).expect("within the file");
                u64::from_ne_bytes(bytes)
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let max = self.queue.max_message();
        match *step {
            Step::Scribble(place, ref word) => {
                let bytes = self.word(word).to_ne_bytes();
                self.file.write_all_at(&bytes, self.offset(place)).expect("within the file");
            }
            Step::Sender => self.senders.extend(self.queue.sender()),
            Step::Receiver => {
                if let Ok(receiver) = self.queue.receiver() {
                    self.receivers.push(receiver);
                    self.numbers.push(self.started);
                    self.started += 1;
                }
            }
            Step::DropSender(who) => {
                if !self.senders.is_empty() {
                    self.senders.swap_remove(usize::from(who) % self.senders.len());
                }
            }
            Step::DropReceiver(who) => {
                if !self.receivers.is_empty() {
                    let index = usize::from(who) % self.receivers.len();
                    self.receivers.swap_remove(index);
                    self.numbers.swap_remove(index);
                }
            }
            Step::Send(who, len) => {
                if let Some(sender) = pick(&mut self.senders, who) {
                    let sent = sender.try_send(&vec![who; usize::from(len)]);
                    assert!(sent.is_err() || usize::from(len) <= max);
                }
            }
            Step::SendMany(who, count) => {
                if let Some(sender) = pick(&mut self.senders, who) {
                    let messages = vec![b"many".as_slice(); count.into()];
                    if let Ok(sent) = sender.try_send_many(messages) {
                        assert!(sent <= usize::from(count));
                    }
                }
            }
            Step::SendInTime(who) => {
                if let Some(sender) = pick(&mut self.senders, who) {
                    let _ = sender.send_blocking_timeout(b"in time", Duration::ZERO);
                }
            }
            Step::Reserve { who, len, shorter, commit } => {
                let Some(sender) = pick(&mut self.senders, who) else { return };
                let Ok(mut message) = sender.try_reserve(len.into()) else { return };
                assert!(message.len() == usize::from(len) && message.len() <= max);
                message.truncate(shorter.into());
                message.write_at(message.len() / 2, &vec![who; message.len() - message.len() / 2]);
                if commit && let Err(TrySendError::Full(message)) = message.try_commit() {
                    let _ = message.try_commit();
                }
            }
            Step::Recv(who) => {
                if let Some(receiver) = pick(&mut self.receivers, who)
                    && let Ok(message) = receiver.try_recv()
                {
                    assert!(message.len() <= max);
                }
            }
            Step::RecvMany(who, limit) => {
                if let Some(receiver) = pick(&mut self.receivers, who) {
                    let mut messages = Vec::new();
                    let _ = receiver.try_recv_many(&mut messages, limit.into());
                    assert!(messages.len() <= limit.into());
                    assert!(messages.iter().all(|message| message.len() <= max));
                }
            }
            Step::RecvInTime(who) => {
                if let Some(receiver) = pick(&mut self.receivers, who) {
                    match receiver.recv_blocking_timeout(Duration::ZERO) {
                        Ok(message) => assert!(message.len() <= max),
                        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Closed) => {}
                        Err(RecvTimeoutError::Fault(fault)) => {
                            assert!(!fault.to_string().is_empty())
                        }
                    }
                }
            }
            Step::Lease(who) => {
                if self.receivers.is_empty() {
                    return;
                }
                let index = usize::from(who) % self.receivers.len();
                match self.receivers[index].try_lease() {
                    Ok(lease) => {
                        assert!(lease.len() <= max);
                        self.leases.push((self.numbers[index], lease));
                    }
                    Err(TryRecvError::Empty | TryRecvError::Closed) => {}
                    Err(TryRecvError::Fault(fault)) => assert!(!fault.to_string().is_empty()),
                }
            }
            Step::Read(which) => {
                if let Some((_, lease)) = pick(&mut self.leases, which) {
                    let mut buffer = vec![0; max + 9];
                    assert_eq!(lease.copy_to(&mut buffer), Ok(lease.len()));
                    assert!(lease.read().is_ok_and(|it| it.len() <= max) || lease.read().is_err());
                    assert!(lease.as_slice().is_none(), "nobody said that peers are trusted");
                }
            }
            Step::Ack(which) => {
                if !self.leases.is_empty() {
                    let index = usize::from(which) % self.leases.len();
                    self.leases.swap_remove(index).1.ack();
                }
            }
            Step::Nack(which) => {
                if self.leases.is_empty() {
                    return;
                }
                let index = usize::from(which) % self.leases.len();
                let number = self.leases[index].0;
                let Some(mine) = self.numbers.iter().position(|it| *it == number) else { return };
                let (_, lease) = self.leases.swap_remove(index);
                if let Err(refused) = self.receivers[mine].nack(lease) {
                    self.leases.push((number, refused.into_inner()));
                }
            }
            Step::Ask(who) => {
                assert!(self.queue.len() <= self.queue.capacity());
                let _ = (self.queue.is_closed(), format!("{:?}", self.queue));
                if let Some(sender) = pick(&mut self.senders, who) {
                    let side = sender.side();
                    side.is_ready();
                    side.pass_on();
                }
            }
            Step::Close => {
                let _ = self.queue.close();
            }
        }
    }
}

fn pick<T>(all: &mut [T], which: u8) -> Option<&mut T> {
    let count = all.len().max(1);
    all.get_mut(usize::from(which) % count)
}

fuzz_target!(|input: Input<'_>| {
    let (queue, steps) = match &input {
        Input::Raw(bytes) => (raw(bytes), &[][..]),
        Input::Claimed(claims, steps) => (claimed(claims), &steps[..]),
        Input::Honest(shape, steps) => (honest(shape), &steps[..]),
    };
    let Some(queue) = queue else { return };
    let mut world = World::new(queue);
    world.step(&Step::Sender);
    world.step(&Step::Receiver);
    for step in steps {
        world.step(step);
    }
});
