//! Landlock and seccomp, each really put on a process and seen to refuse.

use std::fs::File;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use landlock::{Access, AccessFs, Ruleset, RulesetAttr, RulesetStatus, Scope};

use super::{Mechanism, Outcome, Try, failed, last, process, spawn};

const LANDLOCK: &str = "boot Linux 5.13 or later with `landlock` in the `lsm=` list; in Docker allow the calls (`--security-opt seccomp=unconfined`, or Docker 20.10.10 or later)";
const TRUNCATE: &str = "boot Linux 6.2 or later with `landlock` in the `lsm=` list";
const SCOPES: &str =
    "boot Linux 6.12 or later; until then the pid and network namespaces alone keep them apart";
const SECCOMP: &str =
    "boot a kernel with CONFIG_SECCOMP_FILTER; in a container allow the `seccomp` call";
const NOTIFY: &str = "boot Linux 5.0 or later; under another filter with a listener (some container runtimes) start outside of it";

/// An errno that `getppid`, which cannot fail, answers only where a filter says so.
const MARK: u32 = 77;

pub(super) const TRIES: &[Try] = &[
    Try::needed(Mechanism::Landlock, "files", LANDLOCK, |_| {
        landlock_refuses()
    }),
    Try::needed(
        Mechanism::Landlock,
        "renames and truncation",
        TRUNCATE,
        |_| restrict(landlock::ABI::V3, false).map(|()| "enforced".to_owned()),
    ),
    Try::optional(
        Mechanism::Landlock,
        "signals and abstract sockets",
        SCOPES,
        |_| restrict(landlock::ABI::V6, true).map(|()| "enforced".to_owned()),
    ),
    Try::needed(Mechanism::Seccomp, "filter", SECCOMP, |_| filter_refuses()),
    Try::needed(Mechanism::Seccomp, "user notification", NOTIFY, |_| {
        listener_answers()
    }),
];

/// The kernel's Landlock ABI, 0 without Landlock (`landlock_create_ruleset(2)`, `LANDLOCK_CREATE_RULESET_VERSION`).
#[must_use]
pub fn landlock_abi() -> u32 {
    // SAFETY: with a null attribute of size 0 and the version flag, the call reads no memory and makes nothing.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0,
            1,
        )
    };
    u32::try_from(answer).unwrap_or(0)
}

fn landlock_refuses() -> Outcome {
    let abi = landlock_abi();
    if abi == 0 {
        return Err(last("landlock_create_ruleset"));
    }
    File::open("/proc/self/status").map_err(failed("open before"))?;
    restrict(landlock::ABI::V1, false)?;
    match File::open("/proc/self/status") {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            Ok(format!("ABI {abi}, an open was refused"))
        }
        Err(error) => Err(format!("open under the rules: {error}")),
        Ok(_) => Err("open under the rules: it was not refused".to_owned()),
    }
}

/// Puts every right of an ABI, and its scopes, on this process, and grants nothing.
fn restrict(abi: landlock::ABI, scopes: bool) -> Result<(), String> {
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(abi));
    let ruleset = if scopes {
        ruleset.and_then(|ruleset| ruleset.scope(Scope::from_all(abi)))
    } else {
        ruleset
    };
    let status = ruleset
        .and_then(|ruleset| ruleset.create())
        .and_then(|ruleset| ruleset.restrict_self())
        .map_err(|error| format!("restrict: {error}"))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => {
            Err(format!("this kernel has ABI {} only", landlock_abi()))
        }
        RulesetStatus::NotEnforced => Err("restrict: not enforced".to_owned()),
    }
}

/// A filter that answers `getppid` with `action` and lets everything else pass.
fn program(action: u32) -> [libc::sock_filter; 4] {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let number = u32::try_from(libc::SYS_getppid).unwrap_or_default();
    [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, action),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn install(action: u32, flags: libc::c_ulong) -> Result<libc::c_long, String> {
    rustix::thread::set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    let mut filter = program(action);
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program points to four instructions that live until the call is over; the kernel copies them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    };
    if answer < 0 {
        Err(last("seccomp"))
    } else {
        Ok(answer)
    }
}

fn getppid() -> Result<libc::c_long, i32> {
    // SAFETY: `getppid` takes nothing and touches no memory.
    let answer = unsafe { libc::syscall(libc::SYS_getppid) };
    if answer == -1 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(answer)
    }
}

fn filter_refuses() -> Outcome {
    install(libc::SECCOMP_RET_ERRNO | MARK, 0)?;
    match getppid() {
        Err(errno) if u32::try_from(errno) == Ok(MARK) => Ok("a call was refused".to_owned()),
        other => Err(format!("the filter let a call pass: {other:?}")),
    }
}

fn listener_answers() -> Outcome {
    let raw = install(
        libc::SECCOMP_RET_USER_NOTIF,
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    )?;
    let raw =
        i32::try_from(raw).map_err(|_| "seccomp: the listener is no descriptor".to_owned())?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
    let listener = unsafe { OwnedFd::from_raw_fd(raw) };
    // The filter holds in the child as well; its call waits until this process answers. Should this process fail
    // before, its end closes the listener and the call is answered ENOSYS.
    let asking = spawn(|| match getppid() {
        Err(errno) if u32::try_from(errno) == Ok(MARK) => {
            Ok("a call was held and answered".to_owned())
        }
        other => Err(format!("the answer did not arrive: {other:?}")),
    })?;
    let done = respond(&listener);
    let outcome = process::wait_for(asking);
    done.and(outcome)
}

/// Takes one held call and answers it with the mark.
fn respond(listener: &OwnedFd) -> Result<(), String> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let wait = Timespec {
        tv_sec: 2,
        tv_nsec: 0,
    };
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&wait)).map_err(failed("poll"))? == 0
    {
        return Err("no notification within 2 s".to_owned());
    }
    // SAFETY: both are plain C structures of integers, for which all zeroes is a value; the kernel asks for zeroes.
    let mut held: libc::seccomp_notif = unsafe { zeroed() };
    // SAFETY: the descriptor is a listener, and the call fills one `seccomp_notif`.
    if unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            std::ptr::from_mut(&mut held),
        )
    } != 0
    {
        return Err(last("receive the notification"));
    }
    let error = -i32::try_from(MARK).unwrap_or_default();
    let mut reply = libc::seccomp_notif_resp {
        id: held.id,
        val: 0,
        error,
        flags: 0,
    };
    // SAFETY: the descriptor is a listener, and the call reads one `seccomp_notif_resp`.
    if unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            std::ptr::from_mut(&mut reply),
        )
    } != 0
    {
        return Err(last("answer the notification"));
    }
    Ok(())
}
