//! Am I still the process that made this handle?
//!
//! One private page holds the number of this process among its forebears, and is marked
//! `MADV_WIPEONFORK`: whatever way a child is made, it reads 0 there. A child that makes a handle
//! of its own takes the next number, so that the handles it inherited stay strangers. A check is
//! one load of a line that hardly ever changes.
#![expect(unsafe_code, reason = "maps the page that the kernel wipes in a forked child")]

use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::mm::{Advice, MapFlags, ProtFlags};

const PAGE: usize = 4096;

/// The memory of the process that made something.
#[derive(Clone, Copy, Debug)]
pub struct ForkGuard {
    current: &'static AtomicU32,
    made_in: u32,
}

impl ForkGuard {
    /// The guard of this process.
    ///
    /// # Errors
    /// When there is no memory for its page.
    pub fn new() -> io::Result<Self> {
        static PAGE_OF_PROCESS: OnceLock<rustix::io::Result<&'static AtomicU32>> = OnceLock::new();
        /// Ordinary memory: a child goes on from its parent's number.
        static LAST: AtomicU32 = AtomicU32::new(0);
        let current = (*PAGE_OF_PROCESS.get_or_init(map_page))?;
        let next = LAST.fetch_add(1, Relaxed).wrapping_add(1).max(1);
        let made_in = match current.compare_exchange(0, next, Relaxed, Relaxed) {
            Ok(_) => next,
            Err(number) => number,
        };
        Ok(Self { current, made_in })
    }

    /// Whether this is a forked child of the process that made the guard.
    #[inline]
    pub fn is_forked(self) -> bool {
        self.current.load(Relaxed) != self.made_in
    }
}

fn map_page() -> rustix::io::Result<&'static AtomicU32> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: an anonymous mapping at a place of the kernel's choice overlaps nothing.
    let page =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE, prot, MapFlags::PRIVATE) }?;
    // SAFETY: the page is ours alone; wiping it in a child leaves a valid AtomicU32 of 0 there.
    unsafe { rustix::mm::madvise(page, PAGE, Advice::LinuxWipeOnFork) }?;
    // SAFETY: the page is aligned, zeroed, never unmapped, and only ever used as this one atomic.
    Ok(unsafe { &*page.cast::<AtomicU32>() })
}
