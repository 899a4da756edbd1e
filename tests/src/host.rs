//! What an agent must not leave behind on the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::within;

/// How long the host gets to clear up.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process that cannot be taken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub id: u32,
    parent: u32,
    /// When it was started, in ticks since boot.
    started: u64,
}

impl Process {
    /// One that runs, or is not waited for yet.
    #[must_use]
    pub fn find(id: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let (state, parent) = (*fields.first()?, fields.get(1)?.parse().ok()?);
        // A zombie has ended.
        let ended = matches!(state, "Z" | "X");
        (!ended).then_some(Self {
            id,
            parent,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// The name of its program, shortened by the kernel.
    #[must_use]
    pub fn name(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.id)).unwrap_or_default();
        name.trim().to_owned()
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::find(self.id).is_some_and(|found| found.started == self.started)
    }
}

fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Process::find(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Everything that descends from a process now, nearest first.
#[must_use]
pub fn descendants(id: u32) -> Vec<Process> {
    let all = all();
    let mut found = Vec::new();
    let mut waiting = vec![id];
    while let Some(parent) = waiting.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            found.push(*process);
            waiting.push(process.id);
        }
    }
    found
}

/// Waits for a descendant with this name.
#[must_use]
pub fn descendant_named(id: u32, name: &str) -> Option<Process> {
    let mut found = None;
    let _ = within(PATIENCE, || {
        found = descendants(id)
            .into_iter()
            .find(|process| process.name() == name);
        found.is_some()
    });
    found
}

/// Holds that processes end.
///
/// # Panics
/// When one lives on.
pub fn assert_gone(processes: &[Process]) {
    let gone = within(PATIENCE, || !processes.iter().any(Process::is_alive));
    let left: Vec<String> = processes
        .iter()
        .filter(|process| process.is_alive())
        .map(|process| format!("{} {}", process.id, process.name()))
        .collect();
    assert!(gone, "these live on: {left:?}");
}

/// What there is on the host that a launch makes there and must take away.
///
/// While it lives, orphans of the tests come to this process instead of to the host's first, so
/// that one that is left behind is found. Tests that use it run one at a time (see [`alone`]).
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    children: BTreeSet<Process>,
}

impl Traces {
    /// Looks.
    ///
    /// # Panics
    /// When orphans cannot be made to come here.
    #[must_use]
    pub fn now() -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .expect("orphans come here");
        Self::look()
    }

    fn look() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::process::id();
        Self {
            mounts: mounts.lines().map(str::to_owned).collect(),
            cgroups: own_cgroups(),
            children: all()
                .into_iter()
                .filter(|process| process.parent == own)
                .collect(),
        }
    }

    /// Holds that everything is as it was.
    ///
    /// # Panics
    /// When it does not become so.
    pub fn assert_unchanged(&self) {
        let mut left = String::new();
        let same = within(PATIENCE, || {
            reap_orphans();
            left = self.difference(&Self::look());
            left.is_empty()
        });
        assert!(same, "the host is not as it was:\n{left}");
    }

    fn difference(&self, now: &Self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let mut note = |what: &str, name: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{what} {name}");
        };
        for mount in self.mounts.symmetric_difference(&now.mounts) {
            note("mount", mount);
        }
        for cgroup in now.cgroups.difference(&self.cgroups) {
            note("cgroup", &cgroup.display());
        }
        for process in now.children.difference(&self.children) {
            note("process", &format!("{} {}", process.id, process.name()));
        }
        text
    }
}

/// Takes the endings of orphans that came to us; those of the harness's own children are theirs.
fn reap_orphans() {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let Some((_, fields)) = text.rsplit_once(')') else {
            continue;
        };
        let mut fields = fields.split_ascii_whitespace();
        if fields.next() == Some("Z") && fields.next() == Some(own.to_string().as_str()) {
            let _ = waitpid(Pid::from_raw(id), WaitOptions::NOHANG);
        }
    }
}

/// Those of agents of this test program, by the names that [`crate::Bench`] gives.
fn own_cgroups() -> BTreeSet<PathBuf> {
    let start = format!("bench-{}-", std::process::id());
    let mut groups = cgroups();
    groups.retain(|group| {
        let name = group.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(&start))
    });
    groups
}

/// Removes the empty groups of one agent.
pub(crate) fn remove_cgroups(agent: &str) {
    let start = format!("{agent}-");
    for group in cgroups() {
        let name = group.file_name().map(|name| name.to_string_lossy());
        if name.is_some_and(|name| name.starts_with(&start)) {
            let gone = within(PATIENCE, || {
                fs::remove_dir(&group).is_ok() || !group.exists()
            });
            // The directory that holds them goes with the last of them.
            if let (true, Some(parent)) = (gone, group.parent()) {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

/// The groups that we make: `…/nemoclaw/NAME` in any hierarchy.
#[must_use]
pub fn cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    search(Path::new("/sys/fs/cgroup"), 8, &mut found);
    found
}

fn search(directory: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let ours = directory.file_name().is_some_and(|name| name == "nemoclaw");
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if ours {
                found.insert(entry.path());
            } else if depth > 0 {
                search(&entry.path(), depth - 1, found);
            }
        }
    }
}

/// The right to look at traces: tests of one program that hold it run one after the other.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // A test that failed has left nothing that matters here.
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
