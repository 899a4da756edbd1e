//! The supervisor's end of user notification: receive refused calls, answer with an error.
//!
//! There is deliberately no answer that lets the call go on: a call continued after it was looked at
//! can have had its memory changed in between (seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Architecture, Errno, syscall_name};

/// The listener of an installed filter.
///
/// The descriptor polls readable while a call waits and hung-up once no process has the filter any
/// more; [`Listener::receive`] never waits. With tokio: put it into an `AsyncFd` (this type is `AsFd`),
/// await readability, receive until [`Event::Idle`], then clear the readiness. Only one thread may
/// receive at a time; `&mut self` sees to that.
#[derive(Debug)]
pub struct Listener {
    descriptor: OwnedFd,
    /// How many bytes the kernel writes for a notification and reads for an answer.
    notification_size: usize,
    response_size: usize,
}

/// What [`Listener::receive`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call that waits for [`Listener::respond`].
    Call(Notification),
    /// Nothing waits now.
    Idle,
    /// No process has the filter any more; nothing will ever come.
    Ended,
}

/// A call that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Names this call towards the kernel; never used twice for one listener.
    pub id: u64,
    /// The calling thread as seen from this process's pid namespace, 0 if it is not visible there.
    /// Valid only as long as [`Listener::is_waiting`] says so, even after reading about it.
    pub pid: u32,
    /// The system call's number; negative where the program asked for a negative one.
    pub syscall: i32,
    /// The architecture of the call: `AUDIT_ARCH_*`. A filter lets only its own through to here.
    pub architecture: u32,
    /// Where the program will continue.
    pub instruction_pointer: u64,
    /// The six argument registers, as they are: the upper halves of narrower arguments are the
    /// caller's to choose.
    pub arguments: [u64; 6],
}

impl Notification {
    /// The call's name, where it has one.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        syscall_name(
            Architecture::from_audit_value(self.architecture)?,
            self.syscall,
        )
    }
}

impl Listener {
    /// Takes over the listener that [`install`](super::install) returned in the other process.
    ///
    /// # Errors
    ///
    /// What `SECCOMP_GET_NOTIF_SIZES` says; `InvalidData` for sizes that cannot be.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let mut sizes = libc::seccomp_notif_sizes {
            seccomp_notif: 0,
            seccomp_notif_resp: 0,
            seccomp_data: 0,
        };
        // SAFETY: SECCOMP_GET_NOTIF_SIZES wants no flags and a pointer to a writable
        // seccomp_notif_sizes, which `sizes` is; the structure has had one form ever since.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_GET_NOTIF_SIZES,
                0,
                &raw mut sizes,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let notification_size = usize::from(sizes.seccomp_notif);
        let response_size = usize::from(sizes.seccomp_notif_resp);
        if notification_size < NOTIFICATION_WORDS * 8 || response_size < RESPONSE_WORDS * 8 {
            let message = "the kernel's notification is shorter than its first version";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Self {
            descriptor,
            notification_size,
            response_size,
        })
    }

    /// Takes the next waiting call, if there is one. Does not wait.
    ///
    /// # Errors
    ///
    /// What poll(2) and `SECCOMP_IOCTL_NOTIF_RECV` say, save a call that vanished on the way (its
    /// thread was killed or interrupted), which is skipped.
    pub fn receive(&mut self) -> io::Result<Event> {
        // A call can vanish between poll and receive; another can follow it, but not for ever: each
        // turn without a result costs the agent a call of its own. The bound is against a kernel's error.
        for _ in 0..MAX_VANISHED {
            let mut waiting = [PollFd::new(&self.descriptor, PollFlags::IN)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            match poll(&mut waiting, Some(&now)) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let state = waiting[0].revents();
            if !state.contains(PollFlags::IN) {
                let ended = state.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
                return Ok(if ended { Event::Ended } else { Event::Idle });
            }
            let mut words = vec![0_u64; self.notification_size.div_ceil(8)];
            // SAFETY: SECCOMP_IOCTL_NOTIF_RECV wants a zeroed, writable buffer of the size that the
            // kernel gave for seccomp_notif; `words` is at least that long, zeroed, aligned for u64
            // and lives until after the call.
            let result = unsafe {
                libc::ioctl(
                    self.descriptor.as_raw_fd(),
                    libc::SECCOMP_IOCTL_NOTIF_RECV,
                    words.as_mut_ptr(),
                )
            };
            if result == 0 {
                return decode(&words).map(Event::Call).ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the kernel's notification is cut short",
                    )
                });
            }
            let error = io::Error::last_os_error();
            if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) {
                return Err(error);
            }
        }
        Ok(Event::Idle)
    }

    /// Makes the call with this id fail with `errno` in its program.
    ///
    /// Gives whether the call still waited; a thread that was killed or interrupted needs no answer.
    ///
    /// # Errors
    ///
    /// What `SECCOMP_IOCTL_NOTIF_SEND` says, save `ENOENT` and `EINPROGRESS` (answered already).
    pub fn respond(&self, id: u64, errno: Errno) -> io::Result<bool> {
        let mut words = vec![0_u64; self.response_size.div_ceil(8)];
        // struct seccomp_notif_resp: id, val, error (negative), flags (none: the call does not go on).
        let error = (-errno.raw_os_error()).to_ne_bytes();
        let [e0, e1, e2, e3] = error;
        for (word, value) in
            words
                .iter_mut()
                .zip([id, 0, u64::from_ne_bytes([e0, e1, e2, e3, 0, 0, 0, 0])])
        {
            *word = value;
        }
        // SAFETY: SECCOMP_IOCTL_NOTIF_SEND wants a readable seccomp_notif_resp of the size that the
        // kernel gave; `words` is at least that long, aligned for u64 and lives until after the call.
        let result = unsafe {
            libc::ioctl(
                self.descriptor.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                words.as_ptr(),
            )
        };
        still_there(result)
    }

    /// Whether the call with this id still waits. Ask after reading anything about
    /// [`Notification::pid`]: only then was it read about the caller and not about a successor.
    ///
    /// # Errors
    ///
    /// What `SECCOMP_IOCTL_NOTIF_ID_VALID` says, save `ENOENT`.
    pub fn is_waiting(&self, id: u64) -> io::Result<bool> {
        // SAFETY: SECCOMP_IOCTL_NOTIF_ID_VALID wants a pointer to a readable u64, which `id` is until
        // after the call.
        let result = unsafe {
            libc::ioctl(
                self.descriptor.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const id,
            )
        };
        still_there(result)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl std::os::fd::AsRawFd for Listener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.descriptor.as_raw_fd()
    }
}

const MAX_VANISHED: usize = 64;
/// `struct seccomp_notif` and `seccomp_notif_resp` as of Linux 5.0, in 64-bit words.
const NOTIFICATION_WORDS: usize = 10;
const RESPONSE_WORDS: usize = 3;

fn still_there(result: libc::c_int) -> io::Result<bool> {
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Gone, or answered already and about to go.
        Some(libc::ENOENT | libc::EINPROGRESS) => Ok(false),
        _ => Err(error),
    }
}

/// `struct seccomp_notif`: id; pid, flags; number, architecture; instruction pointer; six arguments.
fn decode(words: &[u64]) -> Option<Notification> {
    let [
        id,
        caller,
        call,
        instruction_pointer,
        a0,
        a1,
        a2,
        a3,
        a4,
        a5,
    ] = *words.first_chunk::<NOTIFICATION_WORDS>()?;
    let (pid, _flags) = halves(caller);
    let (number, architecture) = halves(call);
    Some(Notification {
        id,
        pid,
        syscall: number.cast_signed(),
        architecture,
        instruction_pointer,
        arguments: [a0, a1, a2, a3, a4, a5],
    })
}

/// The two 32-bit fields that lie in one word, the first in memory first.
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_read_field_by_field_from_the_kernels_layout() {
        // SAFETY: every bit pattern, all zeros included, is a valid seccomp_notif: it has integers only.
        let mut kernel: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        kernel.id = 0x1122_3344_5566_7788;
        kernel.pid = 42;
        kernel.flags = 7;
        kernel.data.nr = -5;
        kernel.data.arch = Architecture::X86_64.audit_value();
        kernel.data.instruction_pointer = 99;
        kernel.data.args = [1, 2, 3, 4, 5, u64::MAX];
        // SAFETY: seccomp_notif is 80 bytes of integers without padding, as long as ten u64.
        let words: [u64; NOTIFICATION_WORDS] = unsafe { std::mem::transmute(kernel) };
        let expected = Notification {
            id: 0x1122_3344_5566_7788,
            pid: 42,
            syscall: -5,
            architecture: Architecture::X86_64.audit_value(),
            instruction_pointer: 99,
            arguments: [1, 2, 3, 4, 5, u64::MAX],
        };
        assert_eq!(decode(&words), Some(expected));
        assert_eq!(decode(&words[..9]), None);
    }
}
