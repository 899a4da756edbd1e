//! What this process is and has.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{getgroups, gethostname, getresgid, getresuid};
use serde_json::{Map, Value, json};

use crate::{Outcome, unable};

pub(crate) fn attempt(name: &str) -> Option<Outcome> {
    Some(match name {
        "descriptors" => descriptors(),
        "environment" => environment(),
        "ids" => ids(),
        "capabilities" => capabilities(),
        "no-new-privs" => status("NoNewPrivs").map(|value| Value::from(value == "1")),
        "seccomp" => status("Seccomp").map(Value::from),
        "secure-bits" => rustix::thread::capabilities_secure_bits()
            .map(|bits| Value::from(bits.bits()))
            .map_err(Into::into),
        "limits" => limits(),
        "host-name" => gethostname()
            .map(|name| Value::from(name.to_string_lossy()))
            .map_err(Into::into),
        "mounts" => mounts(),
        "uptime" => {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            Ok(Value::from(time.tv_sec))
        }
        "namespaces" => namespaces(),
        "directory" => std::env::current_dir()
            .map(|path| Value::from(path.to_string_lossy()))
            .map_err(Into::into),
        "terminal" => terminal(),
        "dumpable" => rustix::process::dumpable_behavior()
            .map(|value| Value::from(format!("{value:?}")))
            .map_err(Into::into),
        _ => return None,
    })
}

/// Every open descriptor with what it is, but the one that lists them.
fn descriptors() -> Outcome {
    let mut found = Map::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        if let Ok(target) = fs::read_link(entry.path()) {
            let target = target.to_string_lossy().into_owned();
            if target != format!("/proc/{}/fd", std::process::id()) {
                found.insert(
                    entry.file_name().to_string_lossy().into_owned(),
                    target.into(),
                );
            }
        }
    }
    Ok(found.into())
}

fn environment() -> Outcome {
    let variables = std::env::vars_os().map(|(name, value)| {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        (text(name), Value::from(text(value)))
    });
    Ok(variables.collect::<Map<_, _>>().into())
}

fn ids() -> Outcome {
    let (user, group) = (getresuid()?, getresgid()?);
    let groups: Vec<u32> = getgroups()?
        .into_iter()
        .map(nix::unistd::Gid::as_raw)
        .collect();
    Ok(json!({
        "real": [user.real.as_raw(), group.real.as_raw()],
        "effective": [user.effective.as_raw(), group.effective.as_raw()],
        "saved": [user.saved.as_raw(), group.saved.as_raw()],
        "groups": groups,
        "user_map": fs::read_to_string("/proc/self/uid_map")?,
        "group_map": fs::read_to_string("/proc/self/gid_map")?,
        "setgroups": fs::read_to_string("/proc/self/setgroups")?.trim(),
    }))
}

/// All five sets (capabilities(7)).
fn capabilities() -> Outcome {
    let mut sets = Map::new();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        sets.insert(set.to_owned(), status(set)?.into());
    }
    Ok(sets.into())
}

/// A field of `/proc/self/status` (proc(5)).
fn status(field: &str) -> Result<String, crate::Failure> {
    let text = fs::read_to_string("/proc/self/status")?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .ok_or_else(|| unable(format!("no `{field}` in /proc/self/status")))
}

fn limits() -> Outcome {
    let mut limits = Map::new();
    for (name, resource) in [
        ("core", Resource::RLIMIT_CORE),
        ("open_files", Resource::RLIMIT_NOFILE),
        ("processes", Resource::RLIMIT_NPROC),
        ("locked_memory", Resource::RLIMIT_MEMLOCK),
    ] {
        let (soft, hard) = getrlimit(resource)?;
        limits.insert(name.to_owned(), json!([soft, hard]));
    }
    Ok(limits.into())
}

/// Path to flags, file-system type and root, of each mount (proc_pid_mountinfo(5)).
fn mounts() -> Outcome {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let fields: Vec<&str> = before.split(' ').collect();
        let kind = after.split(' ').next()?;
        Some(json!({
            "path": fields.get(4)?,
            "root": fields.get(3)?,
            "flags": fields.get(5)?.split(',').collect::<Vec<_>>(),
            "propagation": fields.get(6..)?,
            "kind": kind,
        }))
    });
    Ok(mounts.collect())
}

fn namespaces() -> Outcome {
    let mut found = Map::new();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        if let Ok(target) = fs::read_link(format!("/proc/self/ns/{kind}")) {
            found.insert(kind.to_owned(), target.to_string_lossy().into());
        }
    }
    Ok(found.into())
}

/// What standard input is, and whether it is the controlling terminal.
fn terminal() -> Outcome {
    use rustix::stdio::{stderr, stdin, stdout};
    use rustix::termios::{isatty, tcgetpgrp, tcgetwinsize, ttyname};
    let size = tcgetwinsize(stdin()).map(|size| json!([size.ws_row, size.ws_col]));
    let name = ttyname(stdin(), Vec::new()).map(|name| name.to_string_lossy().into_owned());
    Ok(json!({
        "is_terminal": [isatty(stdin()), isatty(stdout()), isatty(stderr())],
        "size": size.unwrap_or(Value::Null),
        "name": name.ok(),
        "foreground": tcgetpgrp(stdin()).ok().map(|group| group.as_raw_nonzero().get()),
        "group": rustix::process::getpgrp().as_raw_nonzero().get(),
        "controlling": fs::File::open("/dev/tty").is_ok(),
    }))
}
