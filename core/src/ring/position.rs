//! Positions: the unbounded numbering of the messages of a queue, and the slot of a position.
//!
//! Position `p` belongs to lap `p div capacity`, and to the slot that [`Laps::index`] computes from
//! `p mod capacity`. A slot word stores only [`LAP_BITS`] bits of the lap, so laps are compared by
//! their signed distance. That is correct while the two are less than 2^41 laps apart. A handle
//! that slept through that many laps finds its cursor ahead of the slots, and starts again from the
//! slots. It would take 1.3 days, at 20 million messages a second through a ring of one.

/// Bits of the lap in a slot word.
pub(crate) const LAP_BITS: u32 = 42;

/// The number of a message since the queue was created, modulo 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position(u64);

/// The lap of a position, modulo 2^[`LAP_BITS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lap(u64);

impl Lap {
    pub(crate) const MASK: u64 = (1 << LAP_BITS) - 1;

    pub(crate) fn new(bits: u64) -> Self {
        Self(bits & Self::MASK)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn next(self) -> Self {
        Self::new(self.0.wrapping_add(1))
    }

    pub(crate) fn before(self) -> Self {
        Self::new(self.0.wrapping_sub(1))
    }

    /// How many laps `self` is ahead of `other`; negative when it is behind.
    pub(crate) fn ahead_of(self, other: Self) -> i64 {
        const UNUSED: u32 = u64::BITS - LAP_BITS;
        (self.0.wrapping_sub(other.0) << UNUSED).cast_signed() >> UNUSED
    }
}

/// The capacity of a ring, a power of two, and the arithmetic of positions, laps and slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Laps {
    log2: u32,
    mask: u64,
}

/// Slots from one position to the next: one more than share a cache line. Odd, so that a lap has all
/// slots.
const STEP: u64 = 9;

impl Laps {
    pub(crate) fn of_capacity_log2(log2: u32) -> Self {
        let mask = (1_u64 << log2).wrapping_sub(1);
        Self { log2, mask }
    }

    pub(crate) fn capacity_log2(self) -> u32 {
        self.log2
    }

    pub(crate) fn capacity(self) -> u64 {
        1 << self.log2
    }

    /// The slot of a position. Neighbours lie in different cache lines, so that a sender and a
    /// receiver close behind it do not contend for one line with each message.
    #[inline(always)]
    pub(crate) fn index(self, at: Position) -> usize {
        // Below the capacity, which is at most 2^20, so it fits any usize.
        (at.0.wrapping_mul(STEP) & self.mask) as usize
    }

    pub(crate) fn lap(self, at: Position) -> Lap {
        Lap::new(at.0 >> self.log2)
    }

    /// Whether `at` comes before `other`, by the bits of a position that slots show.
    pub(crate) fn is_before(self, at: Position, other: Position) -> bool {
        const UNUSED: u32 = u64::BITS - LAP_BITS;
        let unused = UNUSED.saturating_sub(self.log2);
        (at.0.wrapping_sub(other.0) << unused).cast_signed() < 0
    }

    /// The position of slot 0 in `lap`.
    pub(crate) fn start_of(self, lap: Lap) -> Position {
        Position(lap.bits() << self.log2)
    }

    /// The position `laps` laps after `at` (before it, if negative), in the same slot.
    pub(crate) fn shift(self, at: Position, laps: i64) -> Position {
        Position(at.0.wrapping_add((laps << self.log2).cast_unsigned()))
    }
}

impl Position {
    #[cfg(test)]
    pub(crate) fn new(n: u64) -> Self {
        Self(n)
    }

    /// A position of which only the lowest [`LAP_BITS`] bits are known: only for `is_before`.
    pub(crate) fn from_low_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Whether `self` comes before `other`, by their lowest [`LAP_BITS`] bits.
    pub(crate) fn is_before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) << (u64::BITS - LAP_BITS)).cast_signed() < 0
    }

    pub(crate) fn plus(self, n: u64) -> Self {
        Self(self.0.wrapping_add(n))
    }

    pub(crate) fn minus(self, other: Self) -> u64 {
        self.0.wrapping_sub(other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if neighbours share a cache line, or if two positions of a lap share a slot (each seen
    /// failing).
    #[test]
    fn a_lap_has_a_slot_for_each_position_and_neighbours_share_no_line() {
        for log2 in 0..=12 {
            let laps = Laps::of_capacity_log2(log2);
            let first = Position(7 << log2);
            let slots: Vec<_> = (0..laps.capacity()).map(|n| laps.index(first.plus(n))).collect();
            let mut sorted = slots.clone();
            sorted.sort_unstable();
            assert!(sorted.iter().copied().eq(0..1 << log2), "capacity 2^{log2}");
            // Sixteen slots have two lines, and one pair of neighbours in the same.
            let is_apart = |pair: &[usize]| log2 <= 4 || pair[0] / 8 != pair[1] / 8;
            assert!(slots.windows(2).all(is_apart), "capacity 2^{log2}");
        }
    }

    #[test]
    fn laps_compare_by_distance_across_the_wrap() {
        let last = Lap::new(Lap::MASK);
        assert_eq!(last.next(), Lap::new(0));
        assert_eq!(Lap::new(0).ahead_of(last), 1);
        assert_eq!(last.ahead_of(Lap::new(0)), -1);
        assert_eq!(Lap::new(7).ahead_of(Lap::new(3)), 4);
    }

    #[test]
    fn every_position_of_small_rings_has_its_lap_which_begins_in_slot_0() {
        for log2 in 0..5 {
            let laps = Laps::of_capacity_log2(log2);
            for n in 0..4 * laps.capacity() {
                let at = Position(n);
                assert_eq!(laps.lap(at).bits(), n / laps.capacity());
                let start = laps.start_of(laps.lap(at));
                assert_eq!(start.plus(n % laps.capacity()), at);
                assert_eq!(laps.index(start), 0);
                assert_eq!(laps.shift(laps.shift(at, 3), -3), at);
            }
        }
    }

    #[test]
    fn positions_and_laps_wrap_together() {
        let laps = Laps::of_capacity_log2(1);
        let before = laps.shift(laps.start_of(Lap::new(0)), -1);
        assert_eq!(laps.lap(before), Lap::new(Lap::MASK));
        assert_eq!(laps.lap(before.plus(2)), Lap::new(0));
        assert_eq!(before.plus(2).minus(before), 2);
    }
}
