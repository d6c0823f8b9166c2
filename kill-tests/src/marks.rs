//! The marks between which a victim is killed.
#![expect(unsafe_code, reason = "a mark is a breakpoint instruction")]

/// How a victim shows where its operation begins and ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Marks {
    /// To the process that traces it.
    Breakpoints,
    /// To its own kill points: `points.rs`.
    #[cfg(kill_points)]
    KillPoints,
}

impl Marks {
    #[inline(always)]
    pub(crate) fn around<R>(self, operation: impl FnOnce() -> R) -> R {
        self.begin();
        let result = operation();
        self.end();
        result
    }

    #[inline(never)]
    fn begin(self) {
        match self {
            Self::Breakpoints => breakpoint(),
            #[cfg(kill_points)]
            Self::KillPoints => crate::points::begin(),
        }
    }

    #[inline(never)]
    fn end(self) {
        match self {
            Self::Breakpoints => breakpoint(),
            #[cfg(kill_points)]
            Self::KillPoints => crate::points::end(),
        }
    }
}

#[inline(always)]
fn breakpoint() {
    // SAFETY: it stops the process for its tracer, and does nothing else.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("int3");
    }
}
