//! Shared memory, descriptors and process attributes: the `unsafe` of the operating system.

use std::ffi::CString;
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::socket::{self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus};
use nix::unistd::{Gid, Pid, Uid, setgid, setgroups, setuid};
use tokio::io::unix::AsyncFd;
use zerocopy::FromZeros;

/// How many descriptors one control message may carry.
const MAX_FDS: usize = 4;

/// Anonymous memory of `size` bytes, all zero, to be shared by passing the descriptor on.
pub fn shared_memory(name: &str, size: usize) -> nix::Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    let fd = memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&fd, size as i64)?;
    Ok(fd)
}

/// Maps the `count` values of `T` that begin at `offset`, a multiple of the page size, for the rest of the process's life.
///
/// `T` is made of atomics: other processes write to it at any moment.
pub fn map_shared<T: FromZeros + Sync>(fd: BorrowedFd, offset: usize, count: usize) -> io::Result<&'static [T]> {
    let size = NonZeroUsize::new(size_of::<T>() * count).ok_or(io::ErrorKind::InvalidInput)?;
    if nix::sys::stat::fstat(fd)?.st_size < (offset + size.get()) as i64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared memory is smaller than its layout"));
    }
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing.
    let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, fd, offset as i64)? };
    // SAFETY: the mapping is `size` bytes, page-aligned, never unmapped, and began as zeros, which are valid for `T`
    // (FromZeros); it is only changed through `&T`, that is through atomics, here and in the other processes.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<T>().as_ptr(), count) })
}

/// Takes over a descriptor that this process inherited under a number agreed with its parent.
pub fn inherited(fd: RawFd) -> nix::Result<OwnedFd> {
    nix::fcntl::fcntl(
        // SAFETY: the borrow lasts for this call; the kernel answers EBADF if the number is not open.
        unsafe { BorrowedFd::borrow_raw(fd) },
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    // SAFETY: it is open (checked above), and each agreed number is taken over once, at the start of the role.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A connected pair that keeps message boundaries and tells when the other end is gone.
pub fn seqpacket_pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Sends one message, with descriptors.
pub fn send(to: BorrowedFd, message: &[u8], fds: &[BorrowedFd]) -> nix::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let ancillary = if raw.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(message)];
    socket::sendmsg::<()>(to.as_raw_fd(), &parts, ancillary, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Receives one message into `buffer`; its length (0: the other end is gone) and the descriptors that came with it.
pub fn receive(from: BorrowedFd, buffer: &mut [u8], flags: MsgFlags) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut ancillary = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = socket::recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut ancillary), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

/// Makes this process the parent of its orphaned descendants, so that one place reaps them all.
pub fn become_subreaper() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Registers a descriptor with the runtime that this is called on.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open file until it is dropped, which AsyncFd does after deregistering it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Asks the kernel to kill this process when `parent` ends; false when that has happened already.
pub fn die_with_parent(parent: Pid) -> nix::Result<bool> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(nix::unistd::getppid() == parent)
}

/// The name that `ps`, `top` and `/proc` show for this thread (15 bytes at most).
pub fn name_thread(name: &str) {
    if let Ok(name) = CString::new(name) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// How often this thread has given up the processor to wait for something.
pub fn voluntary_switches() -> i64 {
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD)
        .map_or(0, |usage| usage.voluntary_context_switches())
}

/// Whether a thread of this process waits, for an event or for a device, rather than runs or is ready to.
pub fn is_waiting(thread: Pid) -> bool {
    let stat = std::fs::read(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // The state stands behind the name, which may have any character in it (proc(5)).
    let name_end = stat.iter().rposition(|byte| *byte == b')');
    name_end.is_some_and(|end| matches!(stat.get(end + 2), Some(b'S' | b'D')))
}

/// The next child that has ended, if any.
pub fn reap() -> Option<(Pid, WaitStatus)> {
    match nix::sys::wait::waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(status) => status.pid().map(|pid| (pid, status)),
        Err(_) => None,
    }
}

/// Ends this process at once: no destructors, no `atexit` handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` may be called at any time from any thread.
    unsafe { libc::_exit(code) }
}

/// Lets a program run as another user. In this order, for a user without privilege cannot change groups.
pub fn run_as(command: &mut Command, user: Uid, group: Gid, groups: Vec<Gid>) {
    let change = move || {
        setgroups(&groups)?;
        setgid(group)?;
        Ok(setuid(user)?)
    };
    // SAFETY: between fork and exec only these system calls are made, and nothing is allocated: an error is a number.
    unsafe { command.pre_exec(change) };
}

/// Ends this process and its whole process group at once.
pub fn end_group() -> ! {
    let _ = nix::sys::signal::killpg(nix::unistd::getpgrp(), nix::sys::signal::Signal::SIGKILL);
    exit_now(128 + libc::SIGKILL)
}

/// A second descriptor for the same open file.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

/// The same for a descriptor that Python knows by its number.
pub fn duplicate_of(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: it is not -1, and the borrow lasts for this call; the kernel answers EBADF if the number is not open.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}
