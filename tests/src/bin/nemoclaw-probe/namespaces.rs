//! Tries to make or enter namespaces and to change the mounts.

use std::fs::File;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::mount::{FsOpenFlags, OpenTreeFlags, fsopen, open_tree};
use serde_json::Value;

use crate::files::two;
use crate::processes::in_child;
use crate::{Failure, Outcome, unable};

const NONE: Option<&str> = None;

pub(crate) fn attempt(name: &str, target: &str) -> Option<Outcome> {
    Some(match name {
        // In a child, so that later tries are made where we are.
        "unshare" => flag(target).and_then(|flag| in_child(|| Ok(unshare(flag)?))),
        "clone-into" => flag(target).and_then(|flag| in_child(|| clone_into(flag))),
        "clone3" => in_child(clone3),
        "join" => File::open(target)
            .map_err(Failure::from)
            .and_then(|file| in_child(|| Ok(setns(file, CloneFlags::empty())?))),
        "mount-tmpfs" => done(mount(NONE, target, Some("tmpfs"), MsFlags::empty(), NONE)),
        "mount-proc" => done(mount(NONE, target, Some("proc"), MsFlags::empty(), NONE)),
        "mount-bind" => two(target, |from, to| {
            done(mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE))
        }),
        "move-mount" => two(target, |from, to| {
            done(mount(Some(from), to, NONE, MsFlags::MS_MOVE, NONE))
        }),
        "remount-writable" => {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            done(mount(NONE, target, NONE, flags, NONE))
        }
        "unmount" => done(umount2(target, MntFlags::MNT_DETACH)),
        "pivot-root" => two(target, |new, old| done(nix::unistd::pivot_root(new, old))),
        "change-root" => in_child(|| Ok(nix::unistd::chroot(target)?)),
        "clone-tree" => done(open_tree(CWD, target, OpenTreeFlags::OPEN_TREE_CLONE).map(drop)),
        "open-file-system" => done(fsopen(target, FsOpenFlags::FSOPEN_CLOEXEC).map(drop)),
        _ => return None,
    })
}

fn done<E: Into<Failure>>(result: Result<(), E>) -> Outcome {
    result.map(|()| Value::Null).map_err(Into::into)
}

fn flag(kind: &str) -> Result<CloneFlags, Failure> {
    Ok(match kind {
        "user" => CloneFlags::CLONE_NEWUSER,
        "mount" => CloneFlags::CLONE_NEWNS,
        "pid" => CloneFlags::CLONE_NEWPID,
        "net" => CloneFlags::CLONE_NEWNET,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
        // Not in nix: CLONE_NEWTIME (time_namespaces(7)).
        "time" => CloneFlags::from_bits_retain(0x80),
        _ => return Err(unable("no such namespace")),
    })
}

/// fork(2) with flags, the way in that is left when unshare(2) alone is refused.
fn clone_into(flag: CloneFlags) -> Result<(), Failure> {
    let flags = libc::c_long::from(flag.bits() | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with a null stack this is fork(2), in a program of one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match Errno::result(pid)? {
        0 => std::process::exit(0),
        _ => Ok(()),
    }
}

/// clone3(2), whose flags lie in memory where no filter sees them.
fn clone3() -> Result<(), Failure> {
    // `struct clone_args`, first version: flags, pidfd, child_tid, parent_tid, exit_signal, stack,
    // stack_size, tls.
    let exit_signal = u64::try_from(libc::SIGCHLD).map_err(|_| unable("no signal"))?;
    let arguments = [0, 0, 0, 0, exit_signal, 0, 0, 0_u64];
    let size = size_of_val(&arguments);
    // SAFETY: the arguments have the size that is told; without CLONE_VM and with a null stack
    // this is fork(2), in a program of one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size) };
    match Errno::result(pid)? {
        0 => std::process::exit(0),
        _ => Ok(()),
    }
}
