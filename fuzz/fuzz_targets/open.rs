//! A segment from a hostile creator: it is refused when it is opened, or every operation on it ends,
//! within bounds, in an answer.
//!
//! A header claims any shape, in a file of just the length for it; what is in it else is all zeros, in
//! which single words turn into others that look like words of the protocol, between the operations.
#![no_main]

#[allow(dead_code, reason = "a hostile creator has no honest shape")]
#[path = "../../kill-tests/src/attack/mod.rs"]
mod attack;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use memfd::{FileSeal, MemfdOptions};
use parkline_core::driver::VERSION;
use parkline_core::{OpenError, Queue};

use self::attack::world::{Step, World};

/// See `core/src/geometry.rs`.
const HEADER_LEN: usize = 4096;
/// No larger segment is made: the claims may ask for terabytes.
const MAX_LEN: u64 = 1 << 20;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Any bytes.
    Raw(&'a [u8]),
    /// A shape that the creator claims, in a file of just the length for it.
    Claimed(Claims, Vec<Step>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Claims {
    capacity_log2: Number,
    handles: Number,
    leases: Number,
    max_message: Number,
    watchdog_micros: Number,
    max_attempts: Number,
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
    page.extend(VERSION.to_ne_bytes());
    for narrow in [claims.capacity_log2, claims.handles, claims.leases] {
        page.extend((narrow.get() as u32).to_ne_bytes());
    }
    for wide in [claims.max_message, claims.watchdog_micros, claims.max_attempts] {
        page.extend(wide.get().to_ne_bytes());
    }
    page.extend(claims.typed.unwrap_or(0).to_ne_bytes());
    page.resize(HEADER_LEN, 0);
    let of_len = |len| {
        let file = memfd();
        file.write_all_at(&page, 0).expect("memory");
        file.set_len(len).expect("a length in range");
        Queue::open(sealed(file))
    };
    match of_len(HEADER_LEN as u64) {
        Err(OpenError::WrongLength { expected, .. }) if expected <= MAX_LEN => {
            match of_len(expected) {
                Ok(queue) => Some(queue),
                Err(OpenError::WrongType { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        }
        Err(OpenError::Version { .. }) => panic!("the header is laid out in another way"),
        Err(_) => None,
        Ok(_) => panic!("a header alone is no queue"),
    }
}

fuzz_target!(|input: Input<'_>| {
    let (queue, steps) = match &input {
        Input::Raw(bytes) => (raw(bytes), &[][..]),
        Input::Claimed(claims, steps) => (claimed(claims), &steps[..]),
    };
    let Some(queue) = queue else { return };
    let mut world = World::new(queue, None);
    world.step(&Step::Sender);
    world.step(&Step::Receiver);
    for step in steps {
        world.step(step);
    }
});
