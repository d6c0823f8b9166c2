//! With marks, loom explores both orders of a store and another thread's earlier load, even if the storing
//! thread loaded the word in between.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use loom::sync::atomic::Ordering::Relaxed;
    use loom::thread;
    use parkline_core::driver::AtomicU32;
    use parkline_loom_tests::{Size, model};

    /// The values that a load can see beside a thread that runs `other`.
    fn seen(other: fn(&AtomicU32)) -> BTreeSet<u32> {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let outcomes = Arc::clone(&seen);
        model(Size::Small, move || {
            let word = Arc::new(AtomicU32::new(0));
            let of_other = Arc::clone(&word);
            let other = thread::spawn(move || other(&of_other));
            let found = word.load(Relaxed);
            outcomes.lock().unwrap().insert(found);
            other.join().unwrap();
        });
        Arc::into_inner(seen).unwrap().into_inner().unwrap()
    }

    /// Fails without marks (seen failing: the load sees 0 alone).
    #[test]
    fn a_load_sees_the_store_of_a_thread_that_loaded_before() {
        assert_eq!(seen(|word| word.store(1, Relaxed)), [0, 1].into());
        let load_and_store = |word: &AtomicU32| {
            word.load(Relaxed);
            word.store(1, Relaxed);
        };
        assert_eq!(seen(load_and_store), [0, 1].into());
    }
}
