//! Memory that processes of one program share, apart from a queue: a memfd, mapped for as long as the
//! process lives. The benchmarks include this file by its path.
#![expect(unsafe_code, reason = "maps shared memory")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::FromZeros;

/// A memfd with room for a `T`, all zeros.
pub(crate) fn create<T: FromZeros>() -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("parkline-shared", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, size_of::<T>() as u64)?;
    Ok(fd)
}

/// The `T` in a memfd that [`create`] made in any process of this program. It is never unmapped.
pub(crate) fn map<T: FromZeros + Sync>(fd: impl AsFd) -> io::Result<&'static T> {
    let len = size_of::<T>();
    if rustix::fs::fstat(&fd)?.st_size.cast_unsigned() < len as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the address of the mapping, which overlaps no other.
    let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }?;
    // SAFETY: the mapping is page-aligned, `len` bytes long and never unmapped. It began as zeros,
    // which are a `T`. The other process runs this same program, which keeps the rules of `T: Sync`.
    Ok(unsafe { &*base.cast::<T>() })
}
