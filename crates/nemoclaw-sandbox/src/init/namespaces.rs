//! Namespaces and ids (namespaces(7), user_namespaces(7), time_namespaces(7)).

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use nix::sched::CloneFlags;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::plan::{Identity, Namespace};

pub(super) fn unshare(namespaces: &[Namespace]) -> io::Result<()> {
    let mut flags = CloneFlags::empty();
    for namespace in namespaces {
        flags |= match namespace {
            Namespace::User => CloneFlags::CLONE_NEWUSER,
            Namespace::Mount => CloneFlags::CLONE_NEWNS,
            Namespace::Pid => CloneFlags::CLONE_NEWPID,
            Namespace::Net => CloneFlags::CLONE_NEWNET,
            Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
            Namespace::Uts => CloneFlags::CLONE_NEWUTS,
            Namespace::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            Namespace::Time => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
        };
    }
    nix::sched::unshare(flags)?;
    if namespaces.contains(&Namespace::Mount) {
        // The kernel made them followers of the host's; cut that too.
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )?;
    }
    Ok(())
}

pub(super) fn take_identity(identity: &Identity) -> io::Result<()> {
    // Without this bit the change from uid 0 would empty the capability sets
    // that the steps to come need (capabilities(7)).
    rustix::thread::set_keep_capabilities(true)?;
    if identity.drop_groups {
        setgroups(&[])?;
    }
    let gid = Gid::from_raw(identity.inside_gid);
    let uid = Uid::from_raw(identity.inside_uid);
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // `keep capabilities` keeps the permitted set only.
    let permitted = caps::read(None, caps::CapSet::Permitted)
        .map_err(|_| io::Error::from_raw_os_error(libc::EPERM))?;
    caps::set(None, caps::CapSet::Effective, &permitted)
        .map_err(|_| io::Error::from_raw_os_error(libc::EPERM))
}

/// The offsets are what is added to the host's clocks, so their negation now.
pub(super) fn reset_clocks() -> io::Result<()> {
    let mut offsets = String::new();
    for (name, clock) in [
        ("monotonic", rustix::time::ClockId::Monotonic),
        ("boottime", rustix::time::ClockId::Boottime),
    ] {
        let now = rustix::time::clock_gettime(clock);
        offsets.push_str(&format!("{name} -{} 0\n", now.tv_sec));
    }
    fs::write("/proc/self/timens_offsets", offsets)
}

/// A user namespace that exists only for its maps; each pair is (on disk, agent).
pub(super) fn mapping_namespace(uids: (u32, u32), gids: (u32, u32)) -> io::Result<OwnedFd> {
    let (ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (hold, release) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop((ready, release));
            let entered = nix::sched::unshare(CloneFlags::CLONE_NEWUSER).is_ok();
            if entered && rustix::io::write(&tell, b"+").is_ok() {
                // Returns when the parent closes its end or dies.
                let _ = rustix::io::read(&hold, &mut [0_u8; 1]);
            }
            // SAFETY: ends the process at once, which is all that is wanted.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop((tell, hold));
            let made = (|| {
                if rustix::io::read(&ready, &mut [0_u8; 1])? != 1 {
                    return Err(io::Error::from_raw_os_error(libc::EPERM));
                }
                fs::write(
                    format!("/proc/{child}/uid_map"),
                    format!("{} {} 1", uids.0, uids.1),
                )?;
                fs::write(
                    format!("/proc/{child}/gid_map"),
                    format!("{} {} 1", gids.0, gids.1),
                )?;
                Ok(OwnedFd::from(File::open(format!("/proc/{child}/ns/user"))?))
            })();
            drop(release);
            waitpid(child, None::<WaitPidFlag>)?;
            made
        }
    }
}
