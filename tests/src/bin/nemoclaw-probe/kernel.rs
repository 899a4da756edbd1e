//! Tries on the kernel's surface: calls that no agent needs, other ways to call, and ways to more
//! privilege.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::MemfdFlags;
use serde_json::{Value, json};

use crate::processes::in_child;
use crate::{Failure, Outcome, unable};

/// Where the program lies that is copied to be executed elsewhere.
const SAMPLE: &str = "/usr/bin/true";

/// Calls by name, with arguments that do nothing where the call is allowed: null pointers, closed
/// descriptors, unknown flags. None of them changes this process's memory.
#[rustfmt::skip]
const CALLS: &[(&str, libc::c_long, [u64; 5])] = &[
    ("acct", libc::SYS_acct, [1, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [0; 5]),
    ("adjtimex", libc::SYS_adjtimex, [0; 5]),
    ("bpf", libc::SYS_bpf, [0; 5]),
    ("chroot", libc::SYS_chroot, [0; 5]),
    ("clock_adjtime", libc::SYS_clock_adjtime, [0; 5]),
    ("clock_settime", libc::SYS_clock_settime, [0; 5]),
    ("clone3", libc::SYS_clone3, [0; 5]),
    ("delete_module", libc::SYS_delete_module, [0; 5]),
    ("fanotify_init", libc::SYS_fanotify_init, [0; 5]),
    ("finit_module", libc::SYS_finit_module, [NO_FD, 0, 0, 0, 0]),
    ("fsconfig", libc::SYS_fsconfig, [NO_FD, 99, 0, 0, 0]),
    ("fsmount", libc::SYS_fsmount, [NO_FD, 0, 0, 0, 0]),
    ("fsopen", libc::SYS_fsopen, [0; 5]),
    ("fspick", libc::SYS_fspick, [NO_FD, 0, 0, 0, 0]),
    ("init_module", libc::SYS_init_module, [0; 5]),
    ("io_setup", libc::SYS_io_setup, [1, 0, 0, 0, 0]),
    ("io_uring_enter", libc::SYS_io_uring_enter, [NO_FD, 0, 0, 0, 0]),
    ("io_uring_register", libc::SYS_io_uring_register, [NO_FD, 0, 0, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
    ("kcmp", libc::SYS_kcmp, [1, 1, 0, 0, 0]),
    ("kexec_file_load", libc::SYS_kexec_file_load, [NO_FD, NO_FD, 0, 0, 0xffff]),
    ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0xffff, 0]),
    ("keyctl", libc::SYS_keyctl, [0, NO_FD, 0, 0, 0]),
    ("listmount", 458, [0; 5]),
    ("memfd_secret", libc::SYS_memfd_secret, [0; 5]),
    ("migrate_pages", libc::SYS_migrate_pages, [1, 0, 0, 0, 0]),
    ("mount", libc::SYS_mount, [0; 5]),
    ("mount_setattr", libc::SYS_mount_setattr, [NO_FD, 0, 0, 0, 0]),
    ("move_mount", libc::SYS_move_mount, [NO_FD, 0, NO_FD, 0, 0]),
    ("move_pages", libc::SYS_move_pages, [1, 0, 0, 0, 0]),
    ("name_to_handle_at", libc::SYS_name_to_handle_at, [NO_FD, 0, 0, 0, 0]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [NO_FD, 0, 0, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [NO_FD, 0, 0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 5]),
    // ADDR_NO_RANDOMIZE
    ("personality", libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [NO_FD, 0, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [0; 5]),
    ("process_madvise", libc::SYS_process_madvise, [NO_FD, 0, 0, 0, 0]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
    ("process_vm_writev", libc::SYS_process_vm_writev, [1, 0, 0, 0, 0]),
    ("ptrace", libc::SYS_ptrace, [16, 1, 0, 0, 0]),
    ("quotactl", libc::SYS_quotactl, [0; 5]),
    ("quotactl_fd", libc::SYS_quotactl_fd, [NO_FD, 0, 0, 0, 0]),
    // No known magic: EINVAL after the permission is judged.
    ("reboot", libc::SYS_reboot, [0; 5]),
    ("request_key", libc::SYS_request_key, [0; 5]),
    ("setdomainname", libc::SYS_setdomainname, [0, 1_000_000, 0, 0, 0]),
    ("sethostname", libc::SYS_sethostname, [0, 1_000_000, 0, 0, 0]),
    ("setns", libc::SYS_setns, [NO_FD, 0, 0, 0, 0]),
    ("settimeofday", libc::SYS_settimeofday, [0; 5]),
    ("statmount", 457, [0; 5]),
    ("swapoff", libc::SYS_swapoff, [0; 5]),
    ("swapon", libc::SYS_swapon, [0; 5]),
    // SYSLOG_ACTION_SIZE_BUFFER
    ("syslog", libc::SYS_syslog, [10, 0, 0, 0, 0]),
    ("umount2", libc::SYS_umount2, [0; 5]),
    ("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0]),
    // UFFD_USER_MODE_ONLY
    ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
    // A filter with a listener of its own: seccomp(SET_MODE_FILTER, NEW_LISTENER, null).
    ("seccomp-listener", libc::SYS_seccomp, [1, 8, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("iopl", libc::SYS_iopl, [3, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("ioperm", libc::SYS_ioperm, [0x80, 1, 1, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("modify_ldt", libc::SYS_modify_ldt, [0; 5]),
];
const NO_FD: u64 = u64::MAX;
/// A number that no kernel gives to a call.
const UNKNOWN: libc::c_long = 5000;

pub(crate) fn attempt(name: &str, target: &str) -> Option<Outcome> {
    Some(match name {
        "call" => match CALLS.iter().find(|(call, ..)| *call == target) {
            // In a child: some change the process.
            Some((_, number, arguments)) => in_child(|| call(*number, *arguments)),
            None => Err(unable("no such call in the table")),
        },
        "calls" => Ok(CALLS.iter().map(|(name, ..)| *name).collect()),
        "unknown-call" => in_child(|| call(UNKNOWN, [0; 5])),
        "x32-call" => in_child(|| call(0x4000_0000 | libc::SYS_getpid, [0; 5])),
        "old-call" => in_child(old_call),
        "become-root" => in_child(|| {
            let root = Uid::from_raw(0);
            Ok(setresuid(root, root, root)?)
        }),
        "become-root-group" => in_child(|| {
            let root = Gid::from_raw(0);
            Ok(setresgid(root, root, root)?)
        }),
        "set-groups" => in_child(|| Ok(setgroups(&[Gid::from_raw(0)])?)),
        "regain-capabilities" => in_child(regain_capabilities),
        "terminal-insert" => in_child(|| terminal_control(libc::TIOCSTI, b'x')),
        // The kernel reads 32 bits of the request, a careless filter 64.
        "terminal-insert-wide" => {
            in_child(|| terminal_control(libc::TIOCSTI | 0xdead_0000_0000, b'x'))
        }
        // TIOCLINUX, "get shift state", which changes nothing.
        "terminal-console" => in_child(|| terminal_control(0x541c, 6)),
        "memory-program" => memory_program(target),
        "copy-program" => copy_program(target),
        "execute-through-loader" => through_loader(target),
        _ => return None,
    })
}

/// A call with numbers.
fn call(number: libc::c_long, [a, b, c, d, e]: [u64; 5]) -> Result<(), Failure> {
    // SAFETY: the calls are those of this file, which get no address of ours and map nothing.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, 0) };
    Errno::result(result)?;
    Ok(())
}

/// The entry of 32-bit programs; 20 is getpid(2) there.
#[cfg(target_arch = "x86_64")]
fn old_call() -> Result<(), Failure> {
    let mut number: u64 = 20;
    // SAFETY: the call reads and writes no memory; it changes `rax` and, on some processors, r8 to
    // r11, which are told.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inout("rax") number,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    match i64::from_ne_bytes(number.to_ne_bytes()) {
        pid if pid > 0 => Ok(()),
        error => Err(Errno::from_raw(i32::try_from(-error).unwrap_or(0)).into()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn old_call() -> Result<(), Failure> {
    Err(unable(
        "this architecture has no second entry from the same program",
    ))
}

/// Asks for every capability.
fn regain_capabilities() -> Result<(), Failure> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let all = CapabilitySet::all();
    let sets = CapabilitySets {
        effective: all,
        permitted: all,
        inheritable: all,
    };
    Ok(set_capabilities(None, sets)?)
}

fn terminal_control(request: u64, byte: u8) -> Result<(), Failure> {
    let terminal = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty");
    let descriptor = match &terminal {
        Ok(terminal) => terminal.as_fd(),
        Err(_) => rustix::stdio::stdin(),
    };
    let argument = [byte, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: both requests read at most eight bytes behind the pointer, which are there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            descriptor.as_raw_fd(),
            request,
            argument.as_ptr(),
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Executes a file in memory, which has no path. `plain`, or `sealed`: made as one that may not be
/// executed and then given the permission.
fn memory_program(how: &str) -> Outcome {
    let flags = match how {
        "plain" => MemfdFlags::CLOEXEC,
        "sealed" => MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL,
        _ => return Err(unable("`plain` or `sealed` is wanted")),
    };
    let mut file = fs::File::from(rustix::fs::memfd_create("sample", flags)?);
    file.write_all(&fs::read(SAMPLE)?)?;
    if how == "sealed" {
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
    }
    let (path, arguments) = (CString::default(), [CString::from(c"sample")]);
    in_child(|| {
        let none: [CString; 0] = [];
        let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
        match nix::unistd::execveat(&file, &path, &arguments, &none, flags) {
            Ok(never) => match never {},
            Err(errno) => Err(errno.into()),
        }
    })
}

/// Copies a program to a path and executes the copy.
fn copy_program(path: &str) -> Outcome {
    fs::write(path, fs::read(SAMPLE)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    let status = Command::new(path).stdin(Stdio::null()).status()?;
    Ok(json!({"status": status.code()}))
}

/// Has the dynamic loader map a program that the kernel would not execute (ld.so(8)).
fn through_loader(path: &str) -> Outcome {
    let loaders = [
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/ld-linux-aarch64.so.1",
        "/lib/ld-musl-x86_64.so.1",
        "/lib/ld-musl-aarch64.so.1",
    ];
    let loader = loaders
        .into_iter()
        .find(|loader| fs::metadata(loader).is_ok())
        .ok_or_else(|| unable("no dynamic loader"))?;
    let output = Command::new(loader)
        .arg(path)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(Value::Null);
    }
    Err(unable(String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_calls_names_each_once() {
        let mut names: Vec<&str> = CALLS.iter().map(|(name, ..)| *name).collect();
        let before = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}
