//! Every kind of namespace, inside a user namespace as at a launch, and the network of loopback only.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use super::{Mechanism, Outcome, Try, failed, last, process, spawn};

const USER: &str = "start as root, or allow user namespaces: sysctl `user.max_user_namespaces`, `kernel.unprivileged_userns_clone`; on Ubuntu the shipped AppArmor profile; in Docker `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`";
const INSIDE: &str = "allow it to the container around us (Docker: `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`), or boot a kernel that has this kind of namespace";
const NETWORK: &str = "allow a network namespace of our own to the container around us (Docker: `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`)";

pub(super) const TRIES: &[Try] = &[
    Try::needed(Mechanism::Namespaces, "user", USER, |_| capable()),
    Try::needed(Mechanism::Namespaces, "mount", INSIDE, |_| {
        inside(libc::CLONE_NEWNS, "mount")
    }),
    Try::needed(Mechanism::Namespaces, "pid", INSIDE, |_| pid()),
    Try::needed(Mechanism::Namespaces, "net", INSIDE, |_| {
        inside(libc::CLONE_NEWNET, "net")
    }),
    Try::needed(Mechanism::Namespaces, "ipc", INSIDE, |_| {
        inside(libc::CLONE_NEWIPC, "ipc")
    }),
    Try::needed(Mechanism::Namespaces, "uts", INSIDE, |_| {
        inside(libc::CLONE_NEWUTS, "uts")
    }),
    Try::needed(Mechanism::Namespaces, "cgroup", INSIDE, |_| {
        inside(libc::CLONE_NEWCGROUP, "cgroup")
    }),
    Try::optional(
        Mechanism::Namespaces,
        "time",
        "boot Linux 5.6 or later with CONFIG_TIME_NS",
        |_| inside(libc::CLONE_NEWTIME, "time"),
    ),
    Try::needed(Mechanism::Network, "loopback of its own", NETWORK, |_| {
        loopback()
    }),
];

/// Steps into a user namespace where our id is root.
pub(super) fn user() -> Result<(), String> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    unshare(libc::CLONE_NEWUSER, "unshare a user namespace")?;
    // An id map of one's own group needs this first (user_namespaces(7)); it is missing before Linux 3.19.
    fs::write("/proc/self/setgroups", "deny").map_err(failed("write setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(failed("write uid_map"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(failed("write gid_map"))
}

/// Ubuntu's AppArmor lets the namespace be made and takes the capabilities away: only the use of one tells.
fn capable() -> Outcome {
    user()?;
    unshare(
        libc::CLONE_NEWUTS,
        "use a capability in it (unshare a uts namespace)",
    )?;
    rustix::system::sethostname(b"nemoclaw")
        .map_err(failed("use a capability in it (sethostname)"))?;
    Ok("made, mapped by itself, and a capability used".to_owned())
}

pub(super) fn unshare(flags: libc::c_int, step: &'static str) -> Result<(), String> {
    // SAFETY: `unshare` takes no pointer; flags that this kernel does not know are answered with an error.
    if unsafe { libc::unshare(flags) } == 0 {
        Ok(())
    } else {
        Err(last(step))
    }
}

fn inside(flag: libc::c_int, kind: &str) -> Outcome {
    user()?;
    // The time namespace is entered by children only, so its link is looked up under another name.
    let link = if kind == "mount" { "mnt" } else { kind };
    let link = format!(
        "/proc/self/ns/{link}{}",
        if kind == "time" { "_for_children" } else { "" }
    );
    let before = fs::read_link(&link).map_err(failed("look up the namespace"))?;
    unshare(flag, "unshare")?;
    let after = fs::read_link(&link).map_err(failed("look up the namespace"))?;
    if before == after {
        Err("unshare: nothing changed".to_owned())
    } else {
        Ok("made".to_owned())
    }
}

fn pid() -> Outcome {
    user()?;
    unshare(libc::CLONE_NEWPID, "unshare")?;
    process::wait_for(spawn(|| match std::process::id() {
        1 => Ok("made".to_owned()),
        other => Err(format!("its first process is number {other}")),
    })?)
}

fn loopback() -> Outcome {
    user()?;
    unshare(libc::CLONE_NEWNET, "unshare")?;
    up()?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 80)).map_err(failed("bind 127.0.0.1:80"))?;
    let address = listener.local_addr().map_err(failed("getsockname"))?;
    TcpStream::connect_timeout(&address, Duration::from_secs(1))
        .map_err(failed("connect to 127.0.0.1:80"))?;
    Ok("up, port 80 bound and reached".to_owned())
}

/// Sets `lo` up (`netdevice(7)`).
fn up() -> Result<(), String> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .map_err(failed("socket"))?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).unwrap_or_default();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: the descriptor is open for the call, and `SIOCSIFFLAGS` reads one `ifreq`, which outlives it.
    let answer = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SIOCSIFFLAGS,
            std::ptr::from_ref(&request),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(last("set lo up"))
    }
}
