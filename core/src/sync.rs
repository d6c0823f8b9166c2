//! The one place that names std or loom, so that loom runs the code that ships.

#[cfg(not(loom))]
mod native {
    #[cfg(kill_points)]
    pub use crate::kill_points::kill_point;
    #[cfg(kill_points)]
    pub(crate) use crate::kill_points::{AtomicU32, AtomicU64};
    #[cfg(not(kill_points))]
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
    pub(crate) use core::sync::atomic::{Ordering, compiler_fence, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    /// A point at which the kill tests kill the process, in a build for them: see `kill_points.rs`.
    #[cfg(not(kill_points))]
    #[inline(always)]
    pub fn kill_point(_: &'static str) {}

    /// Orders a SeqCst commit before the SeqCst load that follows it. Empty, because the language
    /// orders two SeqCst accesses.
    #[inline(always)]
    pub(crate) fn order_commit_before_load() {}
}

#[cfg(loom)]
#[allow(unreachable_pub, reason = "of two atomics made alike, models name one")]
mod model {
    use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};

    use loom::sync::Arc;
    use loom::thread::{self, ThreadId};

    pub(crate) use loom::sync::atomic::Ordering;
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    /// loom treats SeqCst accesses as AcqRel, and this fence restores the order that the language
    /// guarantees. It is not recorded: the litmus programs show that the shipped orderings need no
    /// fence here.
    pub(crate) fn order_commit_before_load() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Empty: models stop a thread at any access, see [`stop_after`].
    pub(crate) fn kill_point(_: &'static str) {}

    /// As the standard library's.
    #[track_caller]
    pub(crate) fn fence(order: Ordering) {
        record(0, Act::Fence, order);
        loom::sync::atomic::fence(order);
    }

    /// A fence, because loom has no `membarrier`: it stands for the compiler fence and the barrier
    /// together.
    #[track_caller]
    pub(crate) fn compiler_fence(order: Ordering) {
        record(0, Act::CompilerFence, order);
        loom::sync::atomic::fence(order);
    }

    loom::thread_local! {
        /// How many more accesses this thread makes before it stops; `None`: no limit.
        static LEFT: std::cell::Cell<Option<usize>> = std::cell::Cell::new(None);
        /// The accesses of this thread, while it records them.
        static STEPS: std::cell::RefCell<Option<Vec<Step>>> = std::cell::RefCell::new(None);
    }

    /// One access of a thread to a shared word, or a fence.
    #[derive(Clone, Copy, Debug)]
    pub struct Step {
        /// The address of the word; 0 for a fence.
        pub word: usize,
        /// What was done.
        pub act: Act,
        /// The ordering that the code names.
        pub order: Ordering,
        /// The place in the code.
        pub at: &'static Location<'static>,
    }

    /// What a step does to its word. A compare-exchange that fails is a load.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(missing_docs, reason = "named as the operations of an atomic")]
    pub enum Act {
        Load { found: u64 },
        Store { to: u64 },
        Exchange { from: u64, to: u64 },
        Add { found: u64, more: u64 },
        Or { found: u64, bits: u64 },
        Swap { found: u64, to: u64 },
        Fence,
        CompilerFence,
    }

    /// Runs `operation`, and returns the accesses of this thread to shared words meanwhile. Litmus
    /// programs take the orderings of the shipped code from them.
    pub fn steps_of<R>(operation: impl FnOnce() -> R) -> (R, Vec<Step>) {
        STEPS.with(|steps| *steps.borrow_mut() = Some(Vec::new()));
        let result = operation();
        let steps = STEPS.with(|steps| steps.borrow_mut().take());
        (result, steps.unwrap_or_default())
    }

    #[track_caller]
    fn record(word: usize, act: Act, order: Ordering) {
        let at = Location::caller();
        STEPS.with(|steps| {
            if let Some(steps) = steps.borrow_mut().as_mut() {
                steps.push(Step { word, act, order, at });
            }
        });
    }

    /// The thread stopped for ever, as by SIGKILL or SIGSTOP.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Stopped;

    /// Runs `operation` for `accesses` accesses to shared words, and stops the thread for ever at
    /// the next. No later code of `operation` runs.
    ///
    /// # Errors
    /// [`Stopped`] if the operation did not come to its end.
    pub fn stop_after<R>(accesses: usize, operation: impl FnOnce() -> R) -> Result<R, Stopped> {
        LEFT.with(|left| left.set(Some(accesses)));
        let end = catch_unwind(AssertUnwindSafe(operation));
        LEFT.with(|left| left.set(None));
        end.map_err(|payload| *payload.downcast::<Stopped>().unwrap_or_else(|it| resume_unwind(it)))
    }

    /// The threads that loaded a word, so that loom sees the races of its stores with these loads.
    ///
    /// loom 0.7 compares a store only with the last access of its word. If a thread loads a word
    /// and then stores to it, that last access is its own load. So the race of the store with
    /// another thread's earlier load is not explored (tokio-rs/loom#392, #166). Therefore each
    /// thread that loads a word has a mark on it, and touches the mark before each of its loads. A
    /// thread that stores to the word first touches the marks of all threads that loaded it since
    /// the last store. loom explores both orders of two touches. The touches order nothing else, so
    /// no weak behaviour is lost.
    #[derive(Debug, Default)]
    struct Marks(std::sync::Mutex<Vec<Mark>>);

    #[derive(Debug)]
    struct Mark {
        reader: ThreadId,
        /// No store came after the last load of `reader`.
        is_fresh: bool,
        /// Clones of one `Arc`, one for each thread of a model. None is dropped before the word,
        /// because a check for the last clone is a step of loom that acquires what dropped clones
        /// released.
        handles: Vec<Arc<()>>,
    }

    impl Marks {
        #[track_caller]
        fn before_load(&self) {
            let me = thread::current().id();
            let has_mark = self.with(|marks| {
                let mine = marks.iter_mut().find(|mark| mark.reader == me);
                mine.map(|mark| mark.is_fresh = true).is_some()
            });
            if !has_mark {
                let first = Arc::new(());
                let more = (1..loom::MAX_THREADS).map(|_| Arc::clone(&first)).collect::<Vec<_>>();
                let handles = more.into_iter().chain([first]).collect();
                self.with(|marks| marks.push(Mark { reader: me, is_fresh: true, handles }));
            }
            self.touch(me);
        }

        #[track_caller]
        fn before_store(&self) {
            let me = thread::current().id();
            let fresh: Vec<_> = self.with(|marks| {
                let fresh =
                    |mark: &mut Mark| std::mem::take(&mut mark.is_fresh).then_some(mark.reader);
                marks.iter_mut().filter_map(fresh).filter(|reader| *reader != me).collect()
            });
            fresh.into_iter().for_each(|reader| self.touch(reader));
        }

        /// Other threads can run during a touch, so each takes a clone of its own.
        #[track_caller]
        fn touch(&self, reader: ThreadId) {
            let of_reader = |marks: &mut Vec<Mark>| {
                let at = marks.iter().position(|mark| mark.reader == reader);
                at.expect("it has a mark")
            };
            let handle = self.with(|marks| {
                let at = of_reader(marks);
                marks[at].handles.pop()
            });
            let mut handle = handle.expect("no more threads than loom has");
            assert!(Arc::get_mut(&mut handle).is_none());
            self.with(|marks| {
                let at = of_reader(marks);
                marks[at].handles.push(handle);
            });
        }

        fn with<R>(&self, then: impl FnOnce(&mut Vec<Mark>) -> R) -> R {
            then(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        }
    }

    fn access() {
        LEFT.with(|left| match left.get() {
            Some(0) => resume_unwind(Box::new(Stopped)),
            Some(more) => left.set(Some(more - 1)),
            None => {}
        });
    }

    macro_rules! counted {
        ($name:ident, $word:ty) => {
            /// loom's atomic. A thread can stop at any of its accesses.
            #[derive(Debug)]
            pub struct $name(loom::sync::atomic::$name, Marks);

            impl $name {
                /// As the standard library's.
                #[track_caller]
                pub fn new(word: $word) -> Self {
                    Self(loom::sync::atomic::$name::new(word), Marks::default())
                }

                /// As the standard library's.
                #[track_caller]
                pub fn load(&self, order: Ordering) -> $word {
                    access();
                    self.1.before_load();
                    let found = self.0.load(order);
                    self.record(Act::Load { found: found.into() }, order);
                    found
                }

                /// As the standard library's.
                #[track_caller]
                pub fn store(&self, word: $word, order: Ordering) {
                    access();
                    self.1.before_store();
                    self.record(Act::Store { to: word.into() }, order);
                    self.0.store(word, order);
                }

                #[track_caller]
                pub(crate) fn compare_exchange(
                    &self,
                    current: $word,
                    new: $word,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$word, $word> {
                    access();
                    self.1.before_store();
                    let result = self.0.compare_exchange(current, new, success, failure);
                    match result {
                        Ok(_) => {
                            let (from, to) = (current.into(), new.into());
                            self.record(Act::Exchange { from, to }, success);
                        }
                        Err(found) => self.record(Act::Load { found: found.into() }, failure),
                    }
                    result
                }

                #[track_caller]
                pub(crate) fn fetch_add(&self, more: $word, order: Ordering) -> $word {
                    access();
                    self.1.before_store();
                    let found = self.0.fetch_add(more, order);
                    self.record(Act::Add { found: found.into(), more: more.into() }, order);
                    found
                }

                #[track_caller]
                pub(crate) fn fetch_or(&self, bits: $word, order: Ordering) -> $word {
                    access();
                    self.1.before_store();
                    let found = self.0.fetch_or(bits, order);
                    self.record(Act::Or { found: found.into(), bits: bits.into() }, order);
                    found
                }

                #[track_caller]
                pub(crate) fn swap(&self, word: $word, order: Ordering) -> $word {
                    access();
                    self.1.before_store();
                    let found = self.0.swap(word, order);
                    self.record(Act::Swap { found: found.into(), to: word.into() }, order);
                    found
                }

                #[track_caller]
                fn record(&self, act: Act, order: Ordering) {
                    record(core::ptr::from_ref(self).addr(), act, order);
                }
            }
        };
    }

    counted!(AtomicU32, u32);
    counted!(AtomicU64, u64);
}

#[cfg(loom)]
pub use model::{Act, AtomicU32, Step, Stopped, steps_of, stop_after};
#[cfg(loom)]
pub(crate) use model::{
    AtomicU64, Mutex, MutexGuard, Ordering, compiler_fence, fence, kill_point,
    order_commit_before_load,
};
#[cfg(not(loom))]
pub use native::kill_point;
#[cfg(not(loom))]
pub(crate) use native::*;

/// Orders a store before the load that follows it ([announce]), for the compiler. For the processor
/// the waiter's `membarrier` does so, which is a full barrier in every running thread.
#[inline(always)]
#[cfg_attr(loom, track_caller)]
pub(crate) fn order_store_before_load() {
    compiler_fence(Ordering::SeqCst);
}
