//! Descriptors, process handles and the loss of privileges.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid,
};

use super::{Mechanism, Outcome, Try, answer, failed, last, spawn};

pub(super) const TRIES: &[Try] = &[
    Try::needed(
        Mechanism::Processes,
        "pidfd",
        "boot Linux 5.4 or later",
        |_| pidfd(),
    ),
    Try::needed(
        Mechanism::Processes,
        "close_range",
        "boot Linux 5.9 or later",
        |_| close_range(),
    ),
    Try::needed(
        Mechanism::Processes,
        "no_new_privs",
        "boot Linux 3.5 or later",
        |_| no_new_privs(),
    ),
];

/// Reads the answer of a process and reaps it.
pub(super) fn wait_for((child, pipe): (Pid, OwnedFd)) -> Outcome {
    let outcome = answer(pipe);
    let _ = kill_process(child, Signal::KILL);
    let _ = waitpid(Some(child), WaitOptions::empty());
    outcome
}

fn pidfd() -> Outcome {
    let (child, pipe) = spawn(|| {
        std::thread::sleep(super::PATIENCE);
        Ok(String::new())
    })?;
    drop(pipe);
    let done = rustix::process::pidfd_open(child, PidfdFlags::empty())
        .map_err(failed("pidfd_open"))
        .and_then(|handle| {
            rustix::process::pidfd_send_signal(&handle, Signal::KILL)
                .map_err(failed("pidfd_send_signal"))?;
            waitid(
                WaitId::PidFd(std::os::fd::AsFd::as_fd(&handle)),
                WaitIdOptions::EXITED,
            )
            .map_err(failed("waitid"))
        });
    match done {
        Ok(_) => Ok("opened, signalled, waited for".to_owned()),
        Err(failure) => {
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::empty());
            Err(failure)
        }
    }
}

fn close_range() -> Outcome {
    let spare = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).map_err(failed("fcntl"))?;
    let raw = spare.as_raw_fd();
    // Not dropped: the call below closes it.
    std::mem::forget(spare);
    let number =
        libc::c_uint::try_from(raw).map_err(|_| "the descriptor is negative".to_owned())?;
    // SAFETY: closes the one descriptor that this function owns, and nothing uses it afterwards.
    if unsafe { libc::syscall(libc::SYS_close_range, number, number, 0) } != 0 {
        return Err(last("close_range"));
    }
    // SAFETY: `fcntl(F_GETFD)` on a number that may be closed is what is asked here: it answers EBADF.
    if unsafe { libc::fcntl(raw, libc::F_GETFD) } == -1 {
        Ok("closes descriptors".to_owned())
    } else {
        Err("close_range: the descriptor stayed open".to_owned())
    }
}

fn no_new_privs() -> Outcome {
    rustix::thread::set_no_new_privs(true).map_err(failed("prctl"))?;
    match rustix::thread::no_new_privs() {
        Ok(true) => Ok("set".to_owned()),
        Ok(false) => Err("prctl: it did not stay set".to_owned()),
        Err(error) => Err(failed("prctl")(error)),
    }
}
