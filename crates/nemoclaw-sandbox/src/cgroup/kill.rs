//! Ending everything inside a cgroup and removing it.
//!
//! `cgroup.kill` (Linux 5.14, v2) does it in one write, forks in flight included. Elsewhere the tree is frozen first,
//! so that nothing forks while it is counted, and every process is killed by descriptor; without a freezer the process
//! limit is set to zero for the same purpose.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::{CgroupError, Directory, write};

const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(2);
/// How long one round waits for a group to stand still.
const FREEZING: Duration = Duration::from_millis(100);
const DEPTH: usize = 8;

/// Ends every process in the directories and waits for the last of them.
pub(super) fn kill(directories: &[Directory]) -> Result<(), CgroupError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left = None;
        for directory in directories {
            let count = count(&directory.path)?;
            if count > 0 {
                left = Some((directory.path.clone(), count));
                break;
            }
        }
        let Some((path, left)) = left else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            thaw(directories);
            return Err(CgroupError::Outlived {
                path,
                left,
                seconds: PATIENCE.as_secs(),
            });
        }
        // The group may be in one tree and not in another when an attach failed half way: each tree is asked.
        let killed_whole = directories
            .iter()
            .filter(|one| one.unified && count(&one.path).unwrap_or(1) > 0)
            .any(|one| write(&one.path.join("cgroup.kill"), "1").is_ok());
        if !killed_whole {
            freeze(directories, deadline);
            for directory in directories {
                signal_all(&directory.path)?;
            }
            // A task frozen by v1 dies when it is thawed.
            thaw(directories);
        }
        thread::sleep(STEP);
    }
}

/// The processes of a directory, without those beneath it.
pub(super) fn processes(directory: &Path) -> Result<Vec<u32>, CgroupError> {
    let path = directory.join("cgroup.procs");
    match fs::read_to_string(&path) {
        // A process of a pid namespace that we cannot see into reads as 0.
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if gone(&error) => Ok(Vec::new()),
        Err(source) => Err(CgroupError::Read { path, source }),
    }
}

/// Removes a directory and what was made beneath it, waiting for the kernel to let go of it.
pub(super) fn remove(directory: &Path) -> Result<(), CgroupError> {
    for child in tree(directory).into_iter().rev() {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::remove_dir(&child) {
                Ok(()) => break,
                Err(error) if gone(&error) => break,
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
                {
                    thread::sleep(STEP);
                }
                Err(source) => {
                    return Err(CgroupError::Remove {
                        path: child,
                        source,
                    });
                }
            }
        }
    }
    Ok(())
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn count(directory: &Path) -> Result<usize, CgroupError> {
    let mut all = 0;
    for one in tree(directory) {
        all += processes(&one)?.len();
    }
    Ok(all)
}

/// A directory and those beneath it, parents first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    fn walk(directory: &Path, depth: usize, all: &mut Vec<PathBuf>) {
        all.push(directory.to_path_buf());
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        if depth < DEPTH {
            for entry in entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            {
                walk(&entry.path(), depth + 1, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(directory, 0, &mut all);
    all
}

/// Stops all forks, as far as this host can: what is frozen late is met in the next round.
fn freeze(directories: &[Directory], deadline: Instant) {
    for directory in directories {
        if write(&directory.path.join("cgroup.freeze"), "1").is_ok() {
            return settle(&directory.path.join("cgroup.events"), "frozen 1", deadline);
        }
        let state = directory.path.join("freezer.state");
        if write(&state, "FROZEN").is_ok() {
            return settle(&state, "FROZEN", deadline);
        }
    }
    for directory in directories {
        // The run is over: nothing inside needs to fork again. A tree without this file has nothing to set.
        let _ = write(&directory.path.join("pids.max"), "0");
    }
}

fn settle(file: &Path, line: &str, deadline: Instant) {
    // A v1 tree can stay in FREEZING while a task sits in the kernel: the next round asks again.
    let until = deadline.min(Instant::now() + FREEZING);
    while Instant::now() < until
        && !fs::read_to_string(file).is_ok_and(|text| text.lines().any(|one| one == line))
    {
        thread::sleep(STEP);
    }
}

fn thaw(directories: &[Directory]) {
    for directory in directories {
        let _ = write(&directory.path.join("cgroup.freeze"), "0");
        let _ = write(&directory.path.join("freezer.state"), "THAWED");
    }
}

fn signal_all(directory: &Path) -> Result<(), CgroupError> {
    for one in tree(directory) {
        for raw in processes(&one)? {
            signal(&one, raw)?;
        }
    }
    Ok(())
}

/// Kills by descriptor, after a second look: the id may have passed to a stranger since it was read.
fn signal(directory: &Path, raw: u32) -> Result<(), CgroupError> {
    let Some(pid) = i32::try_from(raw).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => {
            if processes(directory)?.contains(&raw) {
                let _ = pidfd_send_signal(&descriptor, Signal::KILL);
            }
        }
        // Before Linux 5.3, or where a filter around us refuses the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let _ = kill_process(pid, Signal::KILL);
        }
        Err(_) => {}
    }
    Ok(())
}
