//! What runs under the filter.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nemoclaw_sandbox::seccomp::{Errno, Install, Profile, RefusalAction, install, probe};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::{Outcome, filter, profile, same, text};

/// What is tried, with its number, its arguments and the answer that is due.
#[rustfmt::skip]
pub(crate) const REFUSED: [(&str, libc::c_long, [u64; 3], Errno); 14] = [
    ("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0], Errno::PERM),
    ("clone", libc::SYS_clone, [0x1000_0011, 0, 0], Errno::PERM),
    ("socket", libc::SYS_socket, [38, 5, 0], Errno::PERM),
    ("socket", libc::SYS_socket, [40, 1, 0], Errno::PERM),
    ("socket", libc::SYS_socket, [17, 3, 0x0300], Errno::PERM),
    ("socket", libc::SYS_socket, [2, 1, 262], Errno::PERM),
    ("ioctl", libc::SYS_ioctl, [0, 0x5412, 0], Errno::PERM),
    ("ioctl", libc::SYS_ioctl, [0, 0xdead_beef_0000_5412, 0], Errno::PERM),
    ("ptrace", libc::SYS_ptrace, [0, 0, 0], Errno::PERM),
    ("bpf", libc::SYS_bpf, [0, 0, 0], Errno::PERM),
    ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0], Errno::NOSYS),
    ("memfd_create", libc::SYS_memfd_create, [0, 0, 0], Errno::NOSYS),
    ("seccomp", libc::SYS_seccomp, [1, 8, 0], Errno::PERM),
    ("?", 5000, [1, 2, 3], Errno::NOSYS),
];

pub(crate) fn run(case: &str) -> Outcome {
    if case == "errno" {
        text(rustix::thread::set_no_new_privs(true))?;
        let listener = text(install(
            &filter(Profile::AGENT, RefusalAction::Errno)?,
            Install::default(),
        ))?;
        same("listener", &listener.is_some(), &false)?;
        try_call("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0])?;
        return try_call("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0]);
    }
    let filter = filter(profile(case), RefusalAction::Notify)?;
    text(rustix::thread::set_no_new_privs(true))?;
    let how = Install {
        wait_killable: case == "refused" && probe().wait_killable,
    };
    let listener = text(install(&filter, how))?.ok_or("no listener")?;
    send(&listener)?;
    drop(listener);
    text(io::stdin().read_exact(&mut [0]))?;
    match case {
        "ordinary" => {
            let answer = std::thread::spawn(|| 7)
                .join()
                .map_err(|_| "thread failed")?;
            say(&format!("thread {answer}"))?;
            let mut shell = Command::new("/bin/sh");
            let shell = text(
                shell
                    .args(["-c", "ls -l /proc/self | cat >/dev/null; echo $((5 + 7))"])
                    .output(),
            )?;
            say(&format!(
                "shell {}",
                String::from_utf8_lossy(&shell.stdout).trim()
            ))?;
            let pid = raw(libc::SYS_getpid, [0; 3]).map_err(|errno| errno.to_string())?;
            let same_pid = u32::try_from(pid).is_ok_and(|pid| pid == std::process::id());
            say(if same_pid { "pid ok" } else { "pid wrong" })
        }
        "agent" | "egress" => {
            let mut words = std::env::args_os().skip(3);
            let mut program = Command::new(words.next().ok_or("no program")?);
            Err(program.args(words).stdin(Stdio::null()).exec().to_string())
        }
        "clone3" => try_call("clone3", libc::SYS_clone3, [0; 3]),
        "unanswered" => try_call("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0]),
        "refused" => REFUSED
            .into_iter()
            .try_for_each(|(name, number, arguments, _)| try_call(name, number, arguments)),
        "x32" => try_call("x32", 0x4000_0000 | libc::SYS_getpid, [0; 3]),
        "foreign" => int80(),
        "worker" => {
            let answer = std::thread::spawn(|| 7)
                .join()
                .map_err(|_| "thread failed")?;
            say(&format!("thread {answer}"))?;
            let process = Command::new("/bin/true").status();
            say(if process.is_err() {
                "process refused"
            } else {
                "process started"
            })?;
            try_call("kill", libc::SYS_kill, [1, 0, 0])
        }
        _ => Err(format!("no case `{case}`")),
    }
}

fn try_call(name: &str, number: libc::c_long, arguments: [u64; 3]) -> Outcome {
    match raw(number, arguments) {
        Ok(value) => say(&format!("{name} succeeded with {value}")),
        Err(errno) => say(&format!("{name} {errno}")),
    }
}

/// The call's value or its error number.
pub(crate) fn raw(number: libc::c_long, [a, b, c]: [u64; 3]) -> Result<libc::c_long, i32> {
    // SAFETY: the calls tried here take integers, or null for each pointer, and are refused before
    // the kernel looks; getpid, the one that is not, takes nothing.
    let value = unsafe { libc::syscall(number, a, b, c, 0_u64, 0_u64, 0_u64) };
    if value == -1 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    Ok(value)
}

#[cfg(target_arch = "x86_64")]
fn int80() -> Outcome {
    let value: u64;
    // SAFETY: getpid of the 32-bit table (20) takes nothing and changes only rax; where the kernel
    // does not have that table the instruction raises a signal that ends this process.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20_u64 => value,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
    say(&format!("32-bit getpid succeeded with {value}"))
}

#[cfg(not(target_arch = "x86_64"))]
fn int80() -> Outcome {
    Err("no such instruction".to_owned())
}

fn say(line: &str) -> Outcome {
    let mut out = io::stdout();
    text(writeln!(out, "{line}"))?;
    text(out.flush())
}

fn send(listener: &OwnedFd) -> Outcome {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [std::os::fd::AsFd::as_fd(listener)];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    text(sendmsg(
        io::stdin(),
        &[io::IoSlice::new(b"l")],
        &mut control,
        SendFlags::empty(),
    ))?;
    Ok(())
}
