//! What this host offers, found by trying: each mechanism in a process of its own, so that one failure spoils nothing
//! else and nothing is left behind.
//!
//! Lists are no proof: an LSM that is named may not load, a namespace kind that the kernel has may be refused by a
//! container around us. [`main`] is what `nemoclaw-init --probe` runs; it forks, and therefore belongs into a program
//! with a single thread.

mod confine;
mod mounts;
mod namespaces;
mod process;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Layout, Limit};

pub use confine::landlock_abi;

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A layer of enforcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// Namespaces and identity.
    Namespaces,
    /// The private root.
    Mounts,
    /// Landlock.
    Landlock,
    /// The system call filter.
    Seccomp,
    /// The network of loopback only.
    Network,
    /// Descriptors, process handles and privileges.
    Processes,
    /// Limits.
    Cgroups,
    /// BPF programs on kernel hooks.
    KernelHooks,
}

/// One feature, tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The layer it belongs to.
    pub mechanism: Mechanism,
    /// A short name.
    pub feature: String,
    /// Whether every launch needs it; the rest is used where it can be had.
    pub needed: bool,
    /// Whether it works here.
    pub ok: bool,
    /// What was seen: a value, or the step that failed with the kernel's answer.
    pub detail: String,
    /// What a person can do about it; empty when it works.
    pub remedy: String,
}

/// What [`main`] prints, as one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Every try, grouped by mechanism.
    pub tried: Vec<Tried>,
    /// The cgroup trees, tried too.
    pub cgroups: Layout,
}

/// What a try saw, or the step that failed.
type Outcome = Result<String, String>;

/// A try, before it is run.
struct Try {
    mechanism: Mechanism,
    feature: &'static str,
    needed: bool,
    remedy: &'static str,
    run: fn(&Path) -> Outcome,
}

impl Try {
    const fn needed(
        mechanism: Mechanism,
        feature: &'static str,
        remedy: &'static str,
        run: fn(&Path) -> Outcome,
    ) -> Self {
        Self {
            mechanism,
            feature,
            needed: true,
            remedy,
            run,
        }
    }

    const fn optional(
        mechanism: Mechanism,
        feature: &'static str,
        remedy: &'static str,
        run: fn(&Path) -> Outcome,
    ) -> Self {
        Self {
            mechanism,
            feature,
            needed: false,
            remedy,
            run,
        }
    }
}

/// Tries everything and prints the [`Report`] on standard output; `--probe [DIRECTORY]` are the program's arguments,
/// the directory is the one whose file system is tried. Returns the exit status.
#[must_use]
pub fn main() -> i32 {
    let directory = std::env::args_os()
        .nth(2)
        .map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let Ok(mut text) = serde_json::to_vec(&run(&directory)) else {
        return 1;
    };
    text.push(b'\n');
    match io::stdout().lock().write_all(&text) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Tries everything. Must be called in a process with a single thread, because it forks.
#[must_use]
pub fn run(directory: &Path) -> Report {
    let mut tried: Vec<Tried> = [
        namespaces::TRIES,
        mounts::TRIES,
        confine::TRIES,
        process::TRIES,
    ]
    .iter()
    .flat_map(|tries| tries.iter())
    .map(|one| {
        let outcome = apart(one.run, directory);
        Tried {
            mechanism: one.mechanism,
            feature: one.feature.to_owned(),
            needed: one.needed,
            ok: outcome.is_ok(),
            remedy: if outcome.is_ok() {
                String::new()
            } else {
                one.remedy.to_owned()
            },
            detail: outcome.unwrap_or_else(|failure| failure),
        }
    })
    .collect();
    let cgroups = Layout::detect(Path::new("/proc"));
    tried.extend(limits(&cgroups));
    tried.push(Tried {
        mechanism: Mechanism::KernelHooks,
        feature: "BPF programs".to_owned(),
        needed: false,
        ok: false,
        detail: "kernel hooks are not part of this version".to_owned(),
        remedy: "none needed: the other layers do not rest on them".to_owned(),
    });
    Report { tried, cgroups }
}

fn limits(layout: &Layout) -> Vec<Tried> {
    [
        Limit::Group,
        Limit::Memory,
        Limit::Swap,
        Limit::Cpu,
        Limit::Pids,
        Limit::Io,
    ]
    .into_iter()
    .map(|limit| {
        let lack = layout.lack(limit);
        Tried {
            mechanism: Mechanism::Cgroups,
            feature: limit.to_string(),
            needed: false,
            ok: lack.is_none(),
            detail: lack.as_ref().map_or_else(
                || format!("{:?}", layout.kind).to_lowercase(),
                |lack| lack.why.clone(),
            ),
            remedy: lack.map_or_else(String::new, |lack| lack.remedy),
        }
    })
    .collect()
}

/// Runs a try in a forked process and waits for its answer, for [`PATIENCE`] at most.
fn apart(run: fn(&Path) -> Outcome, directory: &Path) -> Outcome {
    let (child, pipe) = spawn(|| run(directory))?;
    let outcome = answer(pipe);
    // Also after a good answer: what the try has forked itself dies with it (see `spawn`).
    let _ = kill_process(child, Signal::KILL);
    let _ = waitpid(Some(child), WaitOptions::empty());
    outcome
}

/// Forks a process that runs `work`, sends its outcome down the pipe and ends. It dies with this one.
fn spawn(work: impl FnOnce() -> Outcome) -> Result<(Pid, OwnedFd), String> {
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
    // SAFETY: `fork` asks that the child of a threaded process call async-signal-safe functions only; the caller's
    // contract is that this process has a single thread, so the child may do as it likes.
    let forked = unsafe { libc::fork() };
    if forked < 0 {
        return Err(last("fork"));
    }
    if forked == 0 {
        drop(read);
        // A parent that died before this call is seen by the pipe alone; nothing here outlives the time limits below.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let outcome = work();
        if let Ok(text) = serde_json::to_vec(&outcome) {
            // A reader that is gone needs no answer.
            let _ = File::from(write).write_all(&text);
        }
        // SAFETY: `_exit` has no conditions; destructors and buffers are the parent's, not ours.
        unsafe { libc::_exit(0) };
    }
    drop(write);
    let child = Pid::from_raw(forked).ok_or("fork answered no process id")?;
    Ok((child, read))
}

/// Reads an outcome until the other end closes.
fn answer(pipe: OwnedFd) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    let mut file = File::from(pipe);
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).map_err(|_| "the time limit is no time".to_owned())?;
        let ready = match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&wait)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(failed("poll")(error)),
        };
        if ready == 0 {
            return Err(format!("no answer within {} s", PATIENCE.as_secs()));
        }
        let mut chunk = [0; 4096];
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => text.extend(chunk.iter().take(count)),
            Err(error) => return Err(format!("reading the answer: {error}")),
        }
    }
    if text.is_empty() {
        return Err("the process that tried it was killed".to_owned());
    }
    serde_json::from_slice(&text).map_err(|error| format!("the answer was cut short: {error}"))?
}

/// `step: what the kernel said`.
fn failed<E>(step: &'static str) -> impl Fn(E) -> String
where
    io::Error: From<E>,
{
    move |error| format!("{step}: {}", io::Error::from(error))
}

/// The failure of a bare system call.
fn last(step: &'static str) -> String {
    format!("{step}: {}", io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_that_dies_and_one_that_fails_are_told_apart() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(write);
        assert_eq!(
            answer(read),
            Err("the process that tried it was killed".to_owned())
        );
        let (read, write) = rustix::pipe::pipe().unwrap();
        File::from(write)
            .write_all(br#"{"Err":"mount: no"}"#)
            .unwrap();
        assert_eq!(answer(read), Err("mount: no".to_owned()));
        let (read, write) = rustix::pipe::pipe().unwrap();
        File::from(write).write_all(br#"{"Ok":"abi"#).unwrap();
        assert!(
            answer(read)
                .unwrap_err()
                .starts_with("the answer was cut short")
        );
    }
}
