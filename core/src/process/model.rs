//! The stand-in of models for what a process has of the kernel.
//!
//! A queue lies on the heap, a record's lock is a flag behind a mutex, and futexes are a mutex with the
//! threads that sleep. No process of a model dies: what the search for the dead finds are messages for
//! which there was no room when their handle went. All else is the code that ships.

pub(crate) mod barriers {
    pub(crate) fn let_joiners_order_us() {}

    /// The fence of `order_store_before_load` is what this barrier stands for.
    pub(crate) fn order_acknowledgements() {}
}

pub(crate) mod fork {
    /// No model forks.
    pub(crate) struct ForksHeld;

    pub(crate) fn hold_forks() -> ForksHeld {
        ForksHeld
    }
}

pub(crate) mod segment {
    use std::sync::Arc;
    use std::time::Instant;

    use crate::error::{AttachError, CreateError};
    use crate::process::companion::Companion;
    use crate::process::owing_handles::OwingHandles;
    use crate::process::side::wake_all_waiters;
    use crate::process::watch::Watch;
    use crate::ring::condition::Condition;
    use crate::ring::geometry::{Geometry, Schema, TypeMark};
    use crate::ring::heap::HeapRing;
    use crate::ring::port::Port;
    use crate::ring::slots::Ring;
    use crate::sync::{Mutex, Ordering::Relaxed};

    /// A queue on the heap.
    #[derive(Debug)]
    pub(crate) struct Segment {
        heap: Arc<Heap>,
        pub(crate) owing_handles: OwingHandles,
        pub(crate) companion: Companion,
        pub(crate) serial: u64,
        pub(crate) watch: Watch,
    }

    #[derive(Debug)]
    struct Heap {
        geometry: Geometry,
        ring: HeapRing,
        /// Which records have a handle.
        locked: Mutex<Vec<bool>>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Allocation {
        Lazy,
        Now,
    }

    /// The mapping of a handle. Lets go of the handle's record when it is dropped.
    #[derive(Debug)]
    pub(crate) struct Mapping {
        heap: Arc<Heap>,
        record: usize,
    }

    impl Segment {
        pub(crate) fn create(
            geometry: Geometry,
            _: TypeMark,
            _: Schema,
            _: Allocation,
        ) -> Result<Self, CreateError> {
            let locked = Mutex::new(vec![false; geometry.handles() as usize]);
            let heap = Arc::new(Heap { geometry, ring: HeapRing::of(geometry), locked });
            let watch = Watch::begin(geometry.watchdog());
            let (owing_handles, companion) = (OwingHandles::default(), Companion::default());
            Ok(Self { heap, owing_handles, companion, serial: 0, watch })
        }

        pub(crate) fn geometry(&self) -> &Geometry {
            &self.heap.geometry
        }

        pub(crate) fn ring(&self) -> Option<Ring<'_>> {
            Some(self.heap.ring.ring())
        }

        pub(crate) fn condition(&self) -> &Condition {
            self.heap.ring.ring().condition
        }

        pub(crate) fn payload(&self) -> TypeMark {
            TypeMark::BYTES
        }

        pub(crate) fn schema(&self) -> Option<(&str, u32)> {
            None
        }

        pub(crate) fn id(&self) -> u128 {
            0
        }

        /// The heap has no pages that are yet to come.
        pub(crate) fn prefault(&self) -> Result<(), AttachError> {
            Ok(())
        }

        pub(crate) fn prefault_handles(&self) {}

        pub(crate) fn keep_in_core_dumps(&self) -> Result<(), AttachError> {
            Ok(())
        }

        /// The lowest record without a handle that `is_wanted`, locked.
        pub(super) fn lock_record(&self, is_wanted: impl Fn(usize) -> bool) -> Option<Mapping> {
            let mut locked = self.heap.locked.lock().unwrap();
            let record = (0..locked.len()).find(|id| !locked[*id] && is_wanted(*id))?;
            locked[record] = true;
            drop(locked);
            Some(Mapping { heap: Arc::clone(&self.heap), record })
        }
    }

    impl Mapping {
        pub(crate) fn is_forked(&self) -> bool {
            false
        }

        pub(super) fn record(&self) -> u32 {
            self.record as u32
        }

        /// The shared words, for as long as the caller says.
        ///
        /// # Safety
        /// Nothing uses them once this is dropped.
        #[expect(unsafe_code, reason = "ties a port to the mapping that it borrows from")]
        pub(super) unsafe fn ring_unbound(&self) -> Ring<'static> {
            // SAFETY: the same type but for the lifetime, which the caller answers for.
            unsafe { core::mem::transmute::<Ring<'_>, Ring<'static>>(self.heap.ring.ring()) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            self.heap.locked.lock().unwrap()[self.record] = false;
        }
    }

    /// As the shipped segment: returns owed messages, then searches for dead handles.
    impl Segment {
        pub(crate) fn maintain(&self) {
            self.maintain_at(Instant::now());
        }

        pub(crate) fn maintain_at(&self, now: Instant) {
            self.owing_handles.return_any();
            if self.watch.is_due(now) {
                let search = || {
                    if self.watch.has_leftovers.swap(false, Relaxed) {
                        self.recover();
                    }
                };
                self.watch.search(now, search, || self.heap.ring.ring().has_room());
            }
        }

        /// Returns what handles that are gone have left.
        fn recover(&self) {
            for record in 0..self.geometry().handles() {
                if let Some(mapping) = self.lock_record(|id| id == record as usize)
                    // As in `claim`: used no longer than the mapping.
                    && let Ok(Some(port)) = Port::take_over(self.heap.ring.ring(), mapping.record())
                {
                    let (gone, left) = port.give_all_back();
                    self.watch.add_leftovers(left);
                    if gone > 0 {
                        wake_all_waiters(port.ring());
                    }
                }
            }
        }

        pub(crate) fn search_briefly(&self) {}

        pub(crate) fn report_death(&self) -> std::time::Duration {
            self.maintain();
            std::time::Duration::ZERO
        }

        pub(crate) fn urgent_search_in(&self) -> Option<std::time::Duration> {
            None
        }
    }
}

pub(crate) mod claim {
    use crate::error::AttachError;
    use crate::process::segment::{Mapping, Segment};
    use crate::ring::port::Port;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum TakesLeftovers {
        Yes,
        No,
    }

    /// Takes the lowest free record. Handles of models leave no messages behind.
    #[expect(unsafe_code, reason = "ties a port to the mapping that it borrows from")]
    pub(crate) fn claim(
        segment: &Segment,
        _: TakesLeftovers,
    ) -> Result<(Port<'static>, Mapping), AttachError> {
        let handles = segment.geometry().handles() as usize;
        let mapping = segment.lock_record(|_| true).ok_or(AttachError::NoFreeHandle { handles })?;
        // SAFETY: the port goes into one struct with the mapping, and is reached through that alone.
        let ring = unsafe { mapping.ring_unbound() };
        let port = Port::take_over(ring, mapping.record())?;
        Ok((port.ok_or(AttachError::NoFreeHandle { handles })?, mapping))
    }
}

pub(crate) mod futex {
    use std::marker::PhantomData;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    use crate::ring::stats::Tally;
    use crate::sync::{AtomicU32, Ordering::Relaxed};
    use crate::wait::gate::{Kernel, Sleep};

    /// The sleeps of all threads of a model.
    #[derive(Default)]
    struct Sleepers {
        /// Each with its word, in the order in which they began, and whether it has ended.
        begun: Mutex<Vec<(usize, Arc<AtomicBool>)>>,
        ended: Condvar,
    }

    loom::lazy_static! {
        static ref SLEEPERS: Sleepers = Sleepers::default();
    }

    /// A futex that counts exactly, and never ends a sleep by itself.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Futex<'a>(PhantomData<&'a Tally>);

    impl<'a> Futex<'a> {
        pub(crate) fn counted(_: &'a Tally) -> Self {
            Self::uncounted()
        }

        pub(crate) fn uncounted() -> Self {
            Self(PhantomData)
        }

        pub(crate) fn count_park(&self) {}
    }

    fn address(word: &AtomicU32) -> usize {
        core::ptr::from_ref(word).addr()
    }

    impl Kernel for Futex<'_> {
        fn wait(&self, sleep: &Sleep<'_>, _: Option<Duration>) {
            let mut begun = SLEEPERS.begun.lock().unwrap();
            // Relaxed: the kernel compares under the lock that every wake takes after its change.
            if sleep.word().load(Relaxed) != sleep.expected() {
                return;
            }
            let has_ended = Arc::new(AtomicBool::new(false));
            begun.push((address(sleep.word()), Arc::clone(&has_ended)));
            while !has_ended.load(Relaxed) {
                begun = SLEEPERS.ended.wait(begun).unwrap();
            }
        }

        fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
            let mut begun = SLEEPERS.begun.lock().unwrap();
            let before = begun.len();
            let mut left = count;
            begun.retain(|(at, has_ended)| {
                let is_woken = *at == address(word) && left > 0;
                left -= u32::from(is_woken);
                // Relaxed: the mutex orders it.
                has_ended.store(is_woken, Relaxed);
                !is_woken
            });
            let woken = before - begun.len();
            if woken > 0 {
                SLEEPERS.ended.notify_all();
            }
            woken as u32
        }
    }
}
