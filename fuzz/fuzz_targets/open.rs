//! A segment from a hostile creator: opening it is refused, or every operation on it ends, within bounds,
//! in an answer.
//!
//! A header claims any shape, in a file of exactly the length for it. All other words are zero. Between
//! the operations a peer writes single words, which resemble words of the protocol. Events and semaphores
//! are tested in the same way.
//!
//! It found, when `max_attempts` still limited how often a permit is acquired, that a semaphore with a
//! low limit opens (150,000 inputs of an empty corpus, within a minute). `max_attempts` has no effect on
//! semaphores now.
#![no_main]

#[allow(dead_code, reason = "a hostile creator has no honest shape")]
#[path = "../../kill-tests/src/attack/peer/mod.rs"]
mod attack;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use memfd::{FileSeal, MemfdOptions};
use parkline_core::driver::VERSION;
use parkline_core::{Event, OpenError, Queue, Semaphore};

use self::attack::world::{Step, World};

/// See `core/src/ring/geometry.rs`.
const HEADER_LEN: usize = 4096;
const SCHEMA_AT: usize = 152;
/// No larger segment is made: the claims may ask for terabytes.
const MAX_LEN: u64 = 1 << 20;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Any bytes.
    Raw(&'a [u8]),
    /// A shape that the creator claims, in a file of exactly the length for it.
    Claimed(Claims, Vec<Step>),
    Event(Claims, Vec<Touch>),
    Semaphore(Claims, Vec<Touch>),
}

/// An operation on an event or a semaphore.
#[derive(Arbitrary, Debug)]
enum Touch {
    Set,
    Clear,
    Wait,
    Acquire,
    Release,
    Recover,
    /// A peer writes one word.
    Write {
        word: u16,
        value: Number,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Claims {
    capacity_log2: Number,
    handles: Number,
    leases: Number,
    max_message: Number,
    watchdog_micros: Number,
    max_attempts: Number,
    /// One of the claims that are zero in most segments, or that must not be zero.
    rare: (u8, Number),
    typed: Option<u32>,
}

impl Claims {
    /// The bytes of the header from `batch` to `queue_id`.
    fn middle(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for which in 0..2 {
            bytes.extend(self.rare(which).to_ne_bytes());
        }
        bytes.extend([u8::from(self.rare.0 != 2); 16]);
        bytes
    }

    /// The version and the length of the name of `schema`.
    fn schema(&self) -> [u32; 2] {
        [self.rare(3), self.rare(4)]
    }

    fn rare(&self, which: u8) -> u32 {
        if self.rare.0 == which { self.rare.1.get() as u32 } else { 0 }
    }
}

/// Most numbers are small, so that some segments open. The others are where sums and products overflow.
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

/// The result of `open` for a header with these claims, if there is a length for which it opens. The rest
/// of the header is that of `like`'s segment.
fn claimed<T>(
    claims: &Claims,
    like: Option<BorrowedFd<'_>>,
    open: impl Fn(OwnedFd) -> Result<T, OpenError>,
) -> Option<T> {
    let mut page = b"PARKLINE".to_vec();
    page.extend(VERSION.to_ne_bytes());
    for narrow in [claims.capacity_log2, claims.handles, claims.leases] {
        page.extend((narrow.get() as u32).to_ne_bytes());
    }
    for wide in [claims.max_message, claims.watchdog_micros, claims.max_attempts] {
        page.extend(wide.get().to_ne_bytes());
    }
    page.extend(claims.middle());
    let claimed = page.len();
    page.resize(HEADER_LEN, 0);
    if let Some(like) = like {
        let honest = File::from(like.try_clone_to_owned().expect("a descriptor"));
        honest.read_exact_at(&mut page[claimed..], claimed as u64).expect("a header");
    } else {
        page[claimed..][..4].copy_from_slice(&claims.typed.unwrap_or(0).to_ne_bytes());
    }
    for (at, claim) in [SCHEMA_AT, SCHEMA_AT + 4].into_iter().zip(claims.schema()) {
        page[at..][..4].copy_from_slice(&claim.to_ne_bytes());
    }
    let of_len = |len| {
        let file = memfd();
        file.write_all_at(&page, 0).expect("memory");
        file.set_len(len).expect("a length in range");
        open(sealed(file))
    };
    match of_len(HEADER_LEN as u64) {
        Err(OpenError::WrongLength { expected, .. }) if expected <= MAX_LEN => {
            match of_len(expected) {
                Ok(opened) => {
                    let unknown = claims.rare(0) != 0 || claims.rare(1) != 0;
                    let named = claims.schema() != [0, 0];
                    assert!(!unknown && !named && claims.rare.0 != 2, "{claims:?}");
                    Some(opened)
                }
                Err(OpenError::WrongType { .. }) if like.is_none() => None,
                Err(OpenError::Claims | OpenError::Attach(_)) if like.is_some() => None,
                Err(OpenError::Schema { .. }) if claims.schema() != [0, 0] => None,
                Err(error) => panic!("{error}"),
            }
        }
        Err(OpenError::Version { .. }) => panic!("the header is laid out in another way"),
        Err(_) => None,
        Ok(_) => panic!("a header alone is no queue"),
    }
}

/// Writes one word into the segment of `fd`, as a peer does.
fn write(fd: BorrowedFd<'_>, word: u16, value: Number) {
    let file = File::from(fd.try_clone_to_owned().expect("a descriptor"));
    let words = file.metadata().expect("a file").len() / 8;
    let at = u64::from(word) % words * 8;
    file.write_all_at(&value.get().to_ne_bytes(), at).expect("in range");
}

fn event(claims: &Claims, touches: &[Touch]) {
    let honest = Queue::builder().create_event().expect("memory");
    let Some(event) = claimed(claims, Some(honest.as_fd()), Event::open) else { return };
    for touch in touches {
        match touch {
            Touch::Set => event.set().expect("no fault is possible"),
            Touch::Clear => event.clear().expect("no fault is possible"),
            Touch::Write { word, value } => write(event.as_fd(), *word, *value),
            _ => {
                let is_set = event.is_set();
                let waited = event.wait_blocking_timeout(Duration::ZERO);
                assert_eq!(waited.is_ok(), is_set, "nobody else sets or clears it");
            }
        }
    }
}

fn semaphore(claims: &Claims, touches: &[Touch]) {
    let honest = Queue::builder().create_semaphore(1).expect("memory");
    let like = Some(honest.as_fd());
    let Some(semaphore) = claimed(claims, like, Semaphore::open) else { return };
    let tokens = 1 << claims.capacity_log2.get() as u32;
    assert!(semaphore.permits() <= tokens, "a release may find no room");
    let mut permits = Vec::new();
    for touch in touches {
        match touch {
            Touch::Acquire => permits.extend(semaphore.try_acquire().ok().flatten()),
            Touch::Wait => permits.extend(semaphore.acquire_blocking_timeout(Duration::ZERO).ok()),
            Touch::Release => _ = permits.pop(),
            Touch::Recover => _ = semaphore.recover(),
            Touch::Write { word, value } => write(semaphore.as_fd(), *word, *value),
            Touch::Set | Touch::Clear => {
                let free = semaphore.available_permits();
                assert!(free <= tokens, "{free} free");
            }
        }
        assert!(permits.len() <= semaphore.permits(), "more than there are");
    }
}

fuzz_target!(|input: Input<'_>| {
    // Removes the writes of the last input that its operations did not reach.
    #[cfg(kill_points)]
    attack::ambush::clear();
    let (queue, steps) = match &input {
        Input::Raw(bytes) => (raw(bytes), &[][..]),
        Input::Claimed(claims, steps) => (claimed(claims, None, Queue::open), &steps[..]),
        Input::Event(claims, touches) => return event(claims, touches),
        Input::Semaphore(claims, touches) => return semaphore(claims, touches),
    };
    let Some(queue) = queue else { return };
    let mut world = World::new(queue, None);
    world.step(&Step::Sender);
    world.step(&Step::Receiver);
    for step in steps {
        world.step(step);
    }
});
