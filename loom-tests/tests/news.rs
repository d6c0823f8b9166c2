//! News of a death, the arrival of a handle, and the driver of owed messages: the parts of a process that
//! threads share without a lock.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use loom::thread;
    use parkline_core::driver::{Driven, News};
    use parkline_loom_tests::{Size, model, ring};

    /// Two peers die. Two threads learn of one death each. Each dead peer left one word.
    ///
    /// Fails without either fence, or if one is AcqRel; if the news is set, or taken, Relaxed; or if it is
    /// set by a plain store (each seen failing): [news], [death].
    #[test]
    fn what_each_of_two_dead_left_is_found() {
        model(Size::Small, || {
            let news = Arc::new(News::new());
            let left = Arc::new([AtomicU32::new(1), AtomicU32::new(1)]);
            let searcher = |which: usize| {
                let (news, left) = (Arc::clone(&news), Arc::clone(&left));
                move || {
                    left[which].store(2, Relaxed);
                    news.bring();
                    let search = || {
                        if news.take() {
                            for word in left.iter().filter(|word| word.load(Relaxed) == 2) {
                                word.store(3, Relaxed);
                            }
                        }
                    };
                    news.search(search, || false);
                }
            };
            let (first, second) = (searcher(0), searcher(1));
            let other = thread::spawn(first);
            second();
            other.join().unwrap();
            let left = left.each_ref().map(|word| word.load(Relaxed));
            assert_eq!(left, [3, 3], "both were found");
        });
    }

    /// Fails if the count is incremented, or loaded, Relaxed (each seen failing): [arrival].
    #[test]
    fn who_sees_that_a_handle_arrived_sees_its_process() {
        model(Size::Small, || {
            let ring = ring(1);
            let handle = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || drop(ring.arrive(0, 7)))
            };
            if ring.arrivals() == 1 {
                assert_eq!(ring.process(0), Some(7));
            }
            handle.join().unwrap();
        });
    }

    /// A message becomes owed while the driver of earlier owed messages is about to stop.
    ///
    /// Fails if the begin, or the end, is Relaxed; or if the end does not check again (each seen failing):
    /// [driven].
    #[test]
    fn what_is_owed_has_a_driver() {
        model(Size::Small, || {
            let driven = Arc::new(Driven::new());
            let owed = Arc::new(AtomicU32::new(0));
            assert!(driven.begin());
            let driver = {
                let (driven, owed) = (Arc::clone(&driven), Arc::clone(&owed));
                thread::spawn(move || driven.end(|| owed.load(Relaxed) != 0))
            };
            owed.store(1, Relaxed);
            let has_begun = driven.begin();
            let has_stopped = driver.join().unwrap();
            assert!(has_begun || !has_stopped, "it waits for ever");
        });
    }
}
