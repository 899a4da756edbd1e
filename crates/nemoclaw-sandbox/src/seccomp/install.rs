//! Installing a filter on the calling thread, and asking the kernel what it offers.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use super::{Architecture, Filter, RefusalAction, bpf};

/// How to install a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Install {
    /// Once the listener has received a call, only a deadly signal interrupts the waiting thread
    /// (Linux 5.19). Without it every signal makes the call restart or fail with `EINTR`, and the
    /// same call can be reported more than once.
    pub wait_killable: bool,
}

/// Installs the filter on the calling thread, for good, and for all that it starts.
///
/// Call it in a process with one thread, after `no_new_privs`, and as late as the other steps allow:
/// what follows, the start of the program included, is judged by the filter; the egress profile lets
/// nobody fork or signal, so it comes after the last fork. A filter made with
/// [`RefusalAction::Notify`] gives its listener, close-on-exec, which must leave the process before the
/// program starts: whoever holds it answers the refused calls.
///
/// # Errors
///
/// `InvalidInput` where the filter is for another architecture or its length is impossible; `EACCES`
/// without `no_new_privs`; `EBUSY` where a listener exists already; `EINVAL` for a program or flag the
/// kernel does not know. Each leaves the thread as it was. See seccomp(2).
pub fn install(filter: &Filter, how: Install) -> io::Result<Option<OwnedFd>> {
    if Architecture::host() != Some(filter.architecture) {
        let message = format!(
            "filter is for {}, which this machine is not",
            filter.architecture
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut program: Vec<libc::sock_filter> = filter
        .instructions
        .iter()
        .copied()
        .map(bpf::unpack)
        .collect();
    let length = u16::try_from(program.len())
        .ok()
        .filter(|length| (1..=bpf::MAX_INSTRUCTIONS).contains(&usize::from(*length)))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "filter has an impossible length",
            )
        })?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    let listens = filter.action == RefusalAction::Notify;
    let flags = match (listens, how.wait_killable) {
        (false, _) => 0,
        (true, false) => libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
        (true, true) => {
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        }
    };
    // SAFETY: seccomp(SECCOMP_SET_MODE_FILTER) wants flags and a pointer to a sock_fprog whose pointer
    // and length describe readable instructions; `program` lives on this stack and its instructions in
    // the vector above, both until after the call. The kernel copies and checks them and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if !listens {
        return Ok(None);
    }
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: from_raw_fd wants an open descriptor that nobody else owns: with NEW_LISTENER the call
    // returned one it has just made for us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// What this kernel says it offers, learnt without installing anything.
///
/// An outer filter (a container's) can still refuse what the kernel knows: a full trial calls
/// [`install`] in a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// seccomp(2) and the actions that every filter here uses.
    pub filter: bool,
    /// The action with which a call waits for an answer (Linux 5.0).
    pub user_notification: bool,
    /// A listener can be had with a filter.
    pub listener: bool,
    /// [`Install::wait_killable`] (Linux 5.19).
    pub wait_killable: bool,
}

/// Asks the kernel what it offers. Changes nothing.
#[must_use]
pub fn probe() -> Support {
    Support {
        filter: action_available(libc::SECCOMP_RET_KILL_PROCESS)
            && action_available(libc::SECCOMP_RET_ERRNO)
            && flags_known(0),
        user_notification: action_available(libc::SECCOMP_RET_USER_NOTIF),
        listener: flags_known(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        wait_killable: flags_known(
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        ),
    }
}

fn action_available(action: u32) -> bool {
    // SAFETY: SECCOMP_GET_ACTION_AVAIL wants no flags and a pointer to a readable 32-bit action, which
    // lives until after the call; nothing is written.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    result == 0
}

/// Whether the kernel knows these flags: it checks them before it reads the program, so that with no
/// program it answers `EFAULT` where it knows them and `EINVAL` where it does not (seccomp(2)).
fn flags_known(flags: libc::c_ulong) -> bool {
    // SAFETY: a null program is a pointer the kernel may be handed; it fails to read it and stops
    // before it changes or writes anything.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
