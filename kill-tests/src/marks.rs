//! The two marks of a victim: it is killed between them.
#![expect(unsafe_code, reason = "a mark is a breakpoint instruction")]

/// How a victim shows where its operation begins and ends.
pub(crate) trait Marks {
    fn begin(&self);

    fn end(&self);

    #[inline(always)]
    fn around<R>(&self, operation: impl FnOnce() -> R) -> R {
        self.begin();
        let result = operation();
        self.end();
        result
    }
}

/// The marks of a victim that another process traces.
pub(crate) struct Breakpoints;

impl Marks for Breakpoints {
    #[inline(never)]
    fn begin(&self) {
        breakpoint();
    }

    #[inline(never)]
    fn end(&self) {
        breakpoint();
    }
}

#[inline(always)]
fn breakpoint() {
    // SAFETY: the instruction stops the process for its tracer, and changes neither memory nor
    // registers.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("int3");
    }
}
