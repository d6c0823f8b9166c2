//! Memory that two processes share: a memfd, mapped for as long as the process lives.
#![expect(unsafe_code, reason = "maps shared memory")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::FromZeros;

/// A memfd with room for a `T`, all zeros.
///
/// # Errors
/// When the kernel has no memory or the process no descriptor left.
pub fn create<T: FromZeros>() -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("parkline-bench", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, size_of::<T>() as u64)?;
    Ok(fd)
}

/// The `T` in a memfd made by [`create`] in this program, in whatever process of it. Never
/// unmapped.
///
/// # Errors
/// When it is too short, or the kernel refuses the mapping.
pub fn map<T: FromZeros + Sync>(fd: impl AsFd) -> io::Result<&'static T> {
    let len = size_of::<T>();
    if rustix::fs::fstat(&fd)?.st_size.cast_unsigned() < len as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a shared mapping at a place of the kernel's choice overlaps nothing.
    let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }?;
    // SAFETY: the mapping is page-aligned, `len` long and never unmapped; it began as zeros, which
    // are a `T`, and the other process is this same program, which keeps to the rules of `T: Sync`.
    Ok(unsafe { &*base.cast::<T>() })
}
