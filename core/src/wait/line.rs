//! The list of waiting tasks: those that rest, in order of arrival, and beside it those on duty.
//!
//! The links of the list are indices of seats. A new task takes a seat that another task has left,
//! if there is one, and then allocates nothing. Every operation takes constant time, except that a
//! task which returns to rest takes as many steps as there are to its place from the nearer end.

use std::task::Waker;

/// No seat.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Line {
    seats: Vec<Seat>,
    /// The first free seat; its `after` is the next.
    free: u32,
    /// The ends of the list of resting tasks.
    first: u32,
    last: u32,
    taken: usize,
    arrivals: u64,
    #[cfg(test)]
    steps: u64,
}

#[derive(Debug)]
struct Seat {
    /// `None`: the seat is free.
    waker: Option<Waker>,
    arrival: u64,
    before: u32,
    after: u32,
    rests: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            seats: Vec::new(),
            free: NONE,
            first: NONE,
            last: NONE,
            taken: 0,
            arrivals: 0,
            #[cfg(test)]
            steps: 0,
        }
    }
}

impl Line {
    /// The number of tasks, resting or on duty.
    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Takes a seat for a task that is on duty.
    pub(crate) fn join(&mut self, waker: Waker) -> u32 {
        self.arrivals = self.arrivals.wrapping_add(1);
        self.taken = self.taken.saturating_add(1);
        let new = Seat {
            waker: Some(waker),
            arrival: self.arrivals,
            before: NONE,
            after: NONE,
            rests: false,
        };
        let index = self.free;
        if let Some(seat) = self.seat(index) {
            let next = seat.after;
            *seat = new;
            self.free = next;
            return index;
        }
        self.seats.push(new);
        // More than 2^32 tasks do not fit into memory.
        u32::try_from(self.seats.len().saturating_sub(1)).unwrap_or(NONE)
    }

    /// Stores `waker` for later calls. Returns the waker that it replaces, to be dropped without a
    /// lock held.
    pub(crate) fn renew(&mut self, index: u32, waker: &Waker) -> Option<Waker> {
        let known = &mut self.seat(index)?.waker;
        if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return None;
        }
        known.replace(waker.clone())
    }

    /// Frees a seat. Returns its waker, to be dropped without a lock held.
    pub(crate) fn leave(&mut self, index: u32) -> Option<Waker> {
        self.rouse(index);
        let free = self.free;
        let seat = self.seat(index)?;
        let waker = seat.waker.take()?;
        seat.after = free;
        self.free = index;
        self.taken = self.taken.saturating_sub(1);
        Some(waker)
    }

    /// Puts a task to rest, ahead of all that arrived later.
    pub(crate) fn rest(&mut self, index: u32) {
        let Some(seat) = self.seat(index).filter(|seat| !seat.rests) else { return };
        seat.rests = true;
        let arrival = seat.arrival;
        let before = self.last_before(arrival);
        let after = self.link_after(before, index);
        self.link_before(after, index);
        if let Some(seat) = self.seat(index) {
            (seat.before, seat.after) = (before, after);
        }
    }

    /// The last resting task that arrived before `arrival`, searched for from both ends at once. A
    /// new task belongs to the back, and a task that returns from duty to the front. If many return
    /// at once, more or less in order, each place is near one of the two ends.
    fn last_before(&mut self, arrival: u64) -> u32 {
        let (mut front, mut back) = (NONE, self.last);
        loop {
            #[cfg(test)]
            {
                self.steps += 1;
            }
            match self.seat(back) {
                Some(seat) if seat.arrival > arrival => back = seat.before,
                _ => return back,
            }
            let first = self.first;
            let next = self.seat(front).map_or(first, |seat| seat.after);
            match self.seat(next) {
                Some(seat) if seat.arrival < arrival => front = next,
                _ => return front,
            }
        }
    }

    /// Puts a task on duty; whether it rested.
    pub(crate) fn rouse(&mut self, index: u32) -> bool {
        let Some(seat) = self.seat(index).filter(|seat| seat.rests) else { return false };
        seat.rests = false;
        let (before, after) = (seat.before, seat.after);
        self.link_after(before, after);
        self.link_before(after, before);
        true
    }

    /// Puts the first resting task on duty. Returns its waker.
    pub(crate) fn rouse_first(&mut self) -> Option<Waker> {
        let first = self.first;
        self.rouse(first);
        self.seat(first)?.waker.clone()
    }

    /// Puts all tasks on duty. Returns the wakers of all, including those that were on duty before.
    pub(crate) fn rouse_all(&mut self) -> Vec<Waker> {
        (self.first, self.last) = (NONE, NONE);
        // All seats before the first clone, which can panic.
        self.seats.iter_mut().for_each(|seat| seat.rests = false);
        self.seats.iter().filter_map(|seat| seat.waker.clone()).collect()
    }

    /// Makes `next` follow `index`; returns the seat that followed before.
    fn link_after(&mut self, index: u32, next: u32) -> u32 {
        let link = match self.seats.get_mut(index as usize) {
            Some(seat) => &mut seat.after,
            None => &mut self.first,
        };
        std::mem::replace(link, next)
    }

    fn link_before(&mut self, index: u32, previous: u32) {
        match self.seats.get_mut(index as usize) {
            Some(seat) => seat.before = previous,
            None => self.last = previous,
        }
    }

    fn seat(&mut self, index: u32) -> Option<&mut Seat> {
        self.seats.get_mut(index as usize)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{RawWaker, RawWakerVTable, Wake};

    use super::*;

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// The seats of the resting tasks, front to back. Also walks back to front, and checks that
    /// both agree.
    fn resting(line: &mut Line) -> Vec<u32> {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        let mut at = line.first;
        while let Some(seat) = line.seat(at) {
            there.push(at);
            at = seat.after;
        }
        at = line.last;
        while let Some(seat) = line.seat(at) {
            back.insert(0, at);
            at = seat.before;
        }
        assert_eq!(there, back);
        there
    }

    fn three() -> Line {
        let mut line = Line::default();
        for seat in 0..3 {
            assert_eq!(line.join(Waker::noop().clone()), seat);
            line.rest(seat);
        }
        line
    }

    /// Fails if a task that comes back goes to the end, or to the front (each seen failing).
    #[test]
    fn who_comes_back_from_duty_has_its_place() {
        let mut line = three();
        for _ in 0..3 {
            assert!(line.rouse_first().is_some());
        }
        assert_eq!((resting(&mut line), line.len()), (vec![], 3));
        assert!(line.rouse_first().is_none());
        for seat in [0, 2, 1] {
            line.rest(seat);
            line.rest(seat);
        }
        assert_eq!(resting(&mut line), [0, 1, 2]);
    }

    /// Fails if a seat that was left stays in the list, or if a seat that was left earlier is lost
    /// (each seen failing).
    #[test]
    fn a_seat_that_was_left_is_taken_again_and_waits_at_the_end() {
        let mut line = three();
        assert!(line.leave(1).is_some());
        assert!(line.leave(1).is_none(), "it is nobody's");
        assert_eq!(resting(&mut line), [0, 2]);
        assert_eq!(line.join(Waker::noop().clone()), 1);
        line.rest(1);
        assert_eq!(resting(&mut line), [0, 2, 1]);
        for seat in 0..3 {
            assert!(line.leave(seat).is_some());
        }
        assert!(line.is_empty() && resting(&mut line).is_empty());
        for seat in [2, 1, 0] {
            assert_eq!(line.join(Waker::noop().clone()), seat, "the last that was left");
        }
        assert_eq!(line.seats.len(), 3);
    }

    #[test]
    fn everybody_is_called_who_has_a_seat() {
        let mut line = three();
        let calls = Arc::new(Calls::default());
        assert!(line.renew(2, &Waker::from(Arc::clone(&calls))).is_some());
        assert!(line.renew(2, &Waker::from(Arc::clone(&calls))).is_none(), "the same");
        drop(line.leave(0));
        assert!(line.rouse_first().is_some());
        let everybody = line.rouse_all();
        assert_eq!(everybody.len(), 2);
        everybody.into_iter().for_each(Waker::wake);
        assert_eq!(calls.0.load(Relaxed), 1);
        assert!(resting(&mut line).is_empty());
        line.rest(2);
        line.rest(1);
        assert_eq!(resting(&mut line), [1, 2]);
    }

    /// Fails if the search starts from one end only (seen failing, for either end). Then 20,000
    /// tasks that return in pairs, the second first, take steps that grow with the square of their
    /// number.
    #[test]
    fn many_who_return_nearly_in_order_find_their_places_soon() {
        const TASKS: u32 = 20_000;
        for reversed in [false, true] {
            let mut line = Line::default();
            for seat in 0..TASKS {
                assert_eq!(line.join(Waker::noop().clone()), seat);
            }
            for pair in 0..TASKS / 2 {
                let first = if reversed { TASKS - 2 - 2 * pair } else { 2 * pair };
                let order = if reversed { [first, first + 1] } else { [first + 1, first] };
                order.into_iter().for_each(|seat| line.rest(seat));
            }
            assert_eq!(resting(&mut line), (0..TASKS).collect::<Vec<_>>());
            assert!(line.steps <= 2 * u64::from(TASKS), "{} steps", line.steps);
        }
    }

    #[expect(unsafe_code, reason = "a waker whose clone panics has no safe name")]
    fn panicking() -> Waker {
        static TABLE: RawWakerVTable =
            RawWakerVTable::new(|_| panic!("no clone"), |_| {}, |_| {}, |_| {});
        // SAFETY: the functions keep a waker's contract, since they use no data.
        unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &TABLE)) }
    }

    /// Fails if some tasks still count as resting when a clone panics (seen failing): they would
    /// never rest again, and no wake-up would reach them.
    #[test]
    fn a_waker_that_panics_as_it_is_cloned_leaves_the_line_whole() {
        let mut line = three();
        assert!(line.leave(0).is_some());
        assert_eq!(line.join(panicking()), 0);
        let roused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| line.rouse_all()));
        assert!(roused.is_err());
        for seat in 0..3 {
            line.rest(seat);
        }
        assert_eq!(resting(&mut line), [1, 2, 0]);
    }
}
