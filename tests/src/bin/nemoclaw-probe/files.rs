//! Tries on paths.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, mknod};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::{Failure, Outcome, unable};

/// What is written where anything is written.
const MARK: &[u8] = b"written by the probe\n";

pub(crate) fn attempt(name: &str, target: &str) -> Option<Outcome> {
    Some(match name {
        "read" => read(target),
        "write" => done(OpenOptions::new().write(true).open(target).and_then(mark)),
        "append" => done(OpenOptions::new().append(true).open(target).and_then(mark)),
        "create" => done(
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(target)
                .and_then(mark),
        ),
        // Where a success with content would change the machine.
        "open-write" => done(OpenOptions::new().write(true).open(target).map(drop)),
        // An open descriptor gives no more rights than it was opened with.
        "reopen-write" => reopen(target),
        "truncate" => done(
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(target)
                .map(drop),
        ),
        "truncate-path" => nix::unistd::truncate(target, 0)
            .map(|()| Value::Null)
            .map_err(Into::into),
        "delete" => done(fs::remove_file(target)),
        "remove-directory" => done(fs::remove_dir(target)),
        "make-directory" => done(fs::create_dir(target)),
        "list" => list(target),
        "stat" => stat(target),
        "rename" => two(target, |from, to| done(fs::rename(from, to))),
        "exchange" => two(target, |one, other| {
            renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
            Ok(Value::Null)
        }),
        "hard-link" => two(target, |from, to| done(fs::hard_link(from, to))),
        "symlink" => two(target, |content, path| done(symlink(content, path))),
        "change-mode" => two(target, |mode, path| {
            let mode = u32::from_str_radix(mode, 8).map_err(|_| unable("no octal mode"))?;
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            Ok(Value::from(format!(
                "{:o}",
                fs::metadata(path)?.mode() & 0o7777
            )))
        }),
        "change-owner" => done(std::os::unix::fs::chown(target, Some(0), Some(0))),
        // 1:3 is null: harmless where it succeeds.
        "make-device" => node(target, SFlag::S_IFCHR),
        "make-block-device" => node(target, SFlag::S_IFBLK),
        "make-fifo" => node(target, SFlag::S_IFIFO),
        "execute" => execute(target),
        "wait-for" => wait_for(target),
        _ => return None,
    })
}

fn done(result: std::io::Result<()>) -> Outcome {
    Ok(result.map(|()| Value::Null)?)
}

fn mark(mut file: File) -> std::io::Result<()> {
    file.write_all(MARK)
}

pub(crate) fn two(target: &str, run: impl FnOnce(&str, &str) -> Outcome) -> Outcome {
    match target.split_once(':') {
        Some((one, other)) => run(one, other),
        None => Err(unable("two targets are wanted, with `:` between them")),
    }
}

/// The beginning, as text.
fn read(path: &str) -> Outcome {
    // A FIFO without a writer would hold us.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut start = vec![0; 4096];
    let length = file.read(&mut start)?;
    start.truncate(length);
    Ok(String::from_utf8_lossy(&start).into())
}

fn reopen(path: &str) -> Outcome {
    let file = File::open(path)?;
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    done(OpenOptions::new().write(true).open(again).and_then(mark))
}

fn list(path: &str) -> Outcome {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.into())
}

fn stat(path: &str) -> Outcome {
    let status = fs::symlink_metadata(path)?;
    Ok(json!({
        "mode": format!("{:o}", status.mode()),
        "user": status.uid(),
        "group": status.gid(),
        "links": status.nlink(),
        "size": status.size(),
        "inode": status.ino(),
        "device": status.rdev(),
    }))
}

fn node(path: &str, kind: SFlag) -> Outcome {
    mknod(
        path,
        kind,
        Mode::from_bits_truncate(0o600),
        nix::sys::stat::makedev(1, 3),
    )?;
    Ok(Value::Null)
}

/// Whether the kernel executes the file; the status is the program's own.
fn execute(path: &str) -> Outcome {
    let output = Command::new(path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    Ok(json!({
        "status": output.status.code(),
        "output": String::from_utf8_lossy(&output.stdout),
    }))
}

/// Until somebody makes the file.
fn wait_for(path: &str) -> Outcome {
    let start = Instant::now();
    while fs::symlink_metadata(path).is_err() {
        if start.elapsed() > crate::processes::PATIENCE {
            return Err(Failure::Unable("it did not come".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Value::Null)
}
