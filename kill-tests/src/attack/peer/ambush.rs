//! A word changes during an operation, for example between two loads of it.
//!
//! A kill point names each access to a shared word before the access happens. The access after the next
//! `after` ones finds another value. Code that loads a word twice and expects the same value fails.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use arbitrary::Arbitrary;
use parkline_core::driver::{KillPoint, arm, disarm};

use super::words::{Place, Segment, Word};

/// One ambush.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Ambush {
    /// How many accesses happen before it.
    after: u8,
    /// How many accesses find another value.
    times: u8,
    /// The place of the word; `None` for the word that is accessed.
    at: Option<Place>,
    word: Word,
}

/// The most accesses before an ambush. An operation has fewer.
const FARTHEST: u8 = 64;
/// The most changes of one ambush.
const MOST: u8 = 8;
/// The most accesses to words outside of segments, because the search for their mapping makes a call
/// slow.
const MOST_MISSED: u8 = 64;

/// A segment's mapping: its first address, the address after its last, and its offset in the file.
type Mapped = (usize, usize, u64);

struct Laid {
    ambush: Ambush,
    segment: Arc<Segment>,
    mapped: Vec<Mapped>,
    missed: u8,
}

static LAID: Mutex<Option<Laid>> = Mutex::new(None);

/// Lays an ambush for the next operations of this process on `segment`. It replaces the last ambush.
pub(crate) fn lay(mut ambush: Ambush, segment: &Arc<Segment>) {
    (ambush.after, ambush.times) = (ambush.after % FARTHEST, ambush.times % MOST + 1);
    let (segment, mapped) = (Arc::clone(segment), mapped());
    *laid() = Some(Laid { ambush, segment, mapped, missed: 0 });
    arm(reached);
}

/// Removes the ambush.
pub(crate) fn clear() {
    disarm();
    *laid() = None;
}

fn laid() -> std::sync::MutexGuard<'static, Option<Laid>> {
    LAID.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reached(point: KillPoint) {
    let mut laid = laid();
    let Some(it) = laid.as_mut() else { return };
    if let Some(left) = it.ambush.after.checked_sub(1) {
        it.ambush.after = left;
        return;
    }
    let at = match it.ambush.at {
        Some(place) => Some(it.segment.offset(place)),
        None => point.word.and_then(|address| it.offset_of(address)),
    };
    if let Some(at) = at {
        it.segment.write(at, &it.ambush.word);
        it.ambush.times -= 1;
    }
    if it.ambush.times == 0 || it.missed == MOST_MISSED {
        drop(laid);
        clear();
    }
}

impl Laid {
    /// The offset of an address in the segment; `None` if it is in private memory.
    fn offset_of(&mut self, address: usize) -> Option<u64> {
        let find = |mapped: &[Mapped]| {
            mapped.iter().copied().find(|(from, to, _)| (*from..*to).contains(&address))
        };
        let within = find(&self.mapped).or_else(|| {
            self.missed += 1;
            // A new handle has a mapping of its own.
            self.missed.is_power_of_two().then(|| self.mapped = mapped());
            find(&self.mapped)
        });
        let (from, _, offset) = within?;
        Some((offset + (address - from) as u64) / 8 * 8)
    }
}

fn mapped() -> Vec<Mapped> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let offset = words.nth(1)?;
        let parse = |hex| usize::from_str_radix(hex, 16).ok();
        Some((parse(from)?, parse(to)?, parse(offset)? as u64))
    };
    let segments = maps.lines().filter(|line| line.contains("/memfd:parkline "));
    segments.filter_map(of_line).collect()
}
