//! Limits on memory, swap, processor time, processes and IO, and one grip by which a whole agent is ended.
//!
//! ```text
//! Layout::detect ──> Cgroup::create(plan, layout) ──> attach(pid) ──> usage() … kill() ──> remove()
//!                        │ what was set, what is missing and why        Drop = kill + remove
//! ```
//!
//! Three layouts are met in the field: v2 (one tree with every controller), v1 (a tree for each controller) and the
//! hybrid (v1 controllers beside a v2 tree that only groups processes). A limit is set wherever its controller
//! lives; what cannot be set is returned with its reason and its remedy, and the caller decides whether that stops
//! the launch. Sources: the kernel's `admin-guide/cgroup-v2.rst` and `admin-guide/cgroup-v1/`, `cgroups(7)`.

mod device;
mod kill;
mod layout;
mod stale;
mod v1;
mod v2;

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use layout::{Kind, Layout, Legacy, Owner, Place, Unified};
pub use stale::sweep;

/// The directory, beneath the place chosen in each tree, that holds all our cgroups.
pub(crate) const GROUP: &str = "nemoclaw";

/// The limits of one agent. A limit that is `None` is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupPlan {
    /// The name of this run: letters, digits, `-` and `_`, at most 100; unique among runs that live at once.
    pub name: String,
    /// Bytes of memory, page cache included.
    pub memory_max: Option<u64>,
    /// Bytes of swap beside the memory.
    pub swap_max: Option<u64>,
    /// Processor time.
    pub cpu_max: Option<CpuMax>,
    /// Processes and threads.
    pub pids_max: Option<u64>,
    /// Reads and writes of one disk.
    pub io_max: Option<IoMax>,
    /// Whether a missing limit must stop the launch; [`Cgroup::create`] leaves that to its caller.
    pub required: bool,
}

/// Processor time: `quota_us` microseconds in each `period_us` microseconds; the kernel takes periods of 1 ms to 1 s
/// and quotas of at least 1 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuMax {
    /// Microseconds of processor time in a period; two processors in full are twice the period.
    pub quota_us: u64,
    /// The length of a period in microseconds.
    pub period_us: u64,
}

/// The rates of reading and writing of the disk that a directory lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoMax {
    /// Bytes read in a second.
    pub read_bps: Option<u64>,
    /// Bytes written in a second.
    pub write_bps: Option<u64>,
    /// Reads in a second.
    #[serde(default)]
    pub read_iops: Option<u64>,
    /// Writes in a second.
    #[serde(default)]
    pub write_iops: Option<u64>,
    /// The directory whose disk is meant.
    pub directory: PathBuf,
}

/// What a limit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Memory.
    Memory,
    /// Swap.
    Swap,
    /// Processor time.
    Cpu,
    /// Processes.
    Pids,
    /// Disk reads and writes.
    Io,
    /// Not a limit: the grip by which every process of the agent is found and ended.
    Group,
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Io => "io",
            Self::Group => "group",
        })
    }
}

/// A limit that the kernel holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Which limit.
    pub limit: Limit,
    /// The value as the kernel reads it back (memory is rounded down to whole pages).
    pub value: String,
    /// The file that holds it.
    pub by: PathBuf,
    /// What this kernel does not count against the limit, if anything.
    pub partly: Option<String>,
}

/// A limit that was asked for and could not be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which limit.
    pub limit: Limit,
    /// The reason, with the path and the kernel's answer.
    pub why: String,
    /// What a person can do about it.
    pub remedy: String,
}

/// What an agent has used, as far as this kernel tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The most memory it held at once, in bytes.
    pub memory_peak: Option<u64>,
    /// Processes that the kernel killed because the memory limit was reached.
    pub oom_kills: Option<u64>,
    /// Forks refused because the process limit was reached.
    pub pids_max_hits: Option<u64>,
    /// Processor time in microseconds.
    pub cpu_usec: Option<u64>,
}

/// Why a cgroup could not be made, joined, ended or removed.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// The plan's name cannot be a directory of ours.
    #[error("cgroup name `{0}` is not 1 to 100 letters, digits, `-` or `_`")]
    Name(String),
    /// Another run has this name.
    #[error("cgroup `{}` exists already: two runs have one name", .0.display())]
    Exists(PathBuf),
    /// A process could not be moved in.
    #[error("could not move process {pid} into cgroup `{}`", .path.display())]
    Attach {
        /// The process.
        pid: u32,
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Processes outlived the time allowed for ending them.
    #[error("{left} processes in cgroup `{}` outlived SIGKILL for {seconds} s", .path.display())]
    Outlived {
        /// The directory.
        path: PathBuf,
        /// How many are left.
        left: usize,
        /// How long was waited.
        seconds: u64,
    },
    /// A directory could not be removed.
    #[error("could not remove cgroup `{}`", .path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A control file could not be read.
    #[error("could not read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The directories of one agent, one in each tree. Dropping it kills what is inside and removes them.
#[derive(Debug)]
pub struct Cgroup {
    directories: Vec<Directory>,
    leaf: Option<v2::Leaf>,
}

/// One directory of ours in one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) unified: bool,
    pub(crate) controllers: Vec<String>,
}

/// One value for one control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) limit: Limit,
    pub(crate) controller: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
    pub(crate) partly: Option<String>,
}

/// Settings, and the limits that this version of cgroups cannot express.
pub(crate) type Wanted = (Vec<Setting>, Vec<Missing>);

impl Cgroup {
    /// Makes the agent's directories and sets what can be set.
    ///
    /// On v2 this may move the calling process into a directory of its own (`nemoclaw-supervisor.…`), because a v2
    /// cgroup that hands controllers to its children must hold no process itself.
    ///
    /// # Errors
    /// Only for a bad or taken name. What the host refuses comes back as [`Missing`].
    pub fn create(
        plan: &CgroupPlan,
        layout: &Layout,
    ) -> Result<(Self, Vec<Applied>, Vec<Missing>), CgroupError> {
        let name = stale::directory_name(&plan.name, &layout.owner)?;
        let mut cgroup = Self {
            directories: Vec::new(),
            leaf: None,
        };
        let mut applied = Vec::new();
        let (settings, mut missing) = wanted(plan, layout);
        let (unified, legacy): (Vec<_>, Vec<_>) =
            settings.into_iter().partition(|(_, unified)| *unified);
        let unified: Vec<Setting> = unified.into_iter().map(|(setting, _)| setting).collect();
        let legacy: Vec<Setting> = legacy.into_iter().map(|(setting, _)| setting).collect();

        // The v2 tree first: even without a controller it gives `cgroup.kill`.
        v2::create(
            &name,
            &unified,
            layout,
            &mut cgroup,
            &mut applied,
            &mut missing,
        )?;
        v1::create(
            &name,
            &legacy,
            layout,
            &mut cgroup,
            &mut applied,
            &mut missing,
        )?;
        if cgroup.directories.is_empty() {
            missing.push(layout.no_place(Limit::Group));
        }
        Ok((cgroup, applied, missing))
    }

    /// The agent's directories.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.directories
            .iter()
            .map(|directory| directory.path.as_path())
    }

    /// Moves a process, with all its threads, into every directory. Children that it makes afterwards are born inside.
    ///
    /// # Errors
    /// When the kernel refuses one of the moves; the process may then be in some of the directories.
    pub fn attach(&self, pid: u32) -> Result<(), CgroupError> {
        for directory in &self.directories {
            write(&directory.path.join("cgroup.procs"), &pid.to_string()).map_err(|source| {
                CgroupError::Attach {
                    pid,
                    path: directory.path.clone(),
                    source,
                }
            })?;
        }
        Ok(())
    }

    /// Ends every process inside, forks in flight included, and waits until they are gone (5 s at most).
    ///
    /// # Errors
    /// [`CgroupError::Outlived`] when a process sits in the kernel and does not die.
    pub fn kill(&self) -> Result<(), CgroupError> {
        kill::kill(&self.directories)
    }

    /// The processes inside, as ids in the caller's pid namespace.
    ///
    /// # Errors
    /// When `cgroup.procs` cannot be read.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        match self.directories.first() {
            Some(directory) => kill::processes(&directory.path),
            None => Ok(Vec::new()),
        }
    }

    /// What the agent has used and how often it met a limit.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for directory in &self.directories {
            let seen = if directory.unified {
                v2::usage(&directory.path)
            } else {
                v1::usage(&directory.path)
            };
            usage = Usage {
                memory_peak: usage.memory_peak.or(seen.memory_peak),
                oom_kills: usage.oom_kills.or(seen.oom_kills),
                pids_max_hits: usage.pids_max_hits.or(seen.pids_max_hits),
                cpu_usec: usage.cpu_usec.or(seen.cpu_usec),
            };
        }
        usage
    }

    /// Ends what is inside and removes the directories.
    ///
    /// # Errors
    /// The first failure of [`Cgroup::kill`] or of a removal; the rest is still tried.
    pub fn remove(mut self) -> Result<(), CgroupError> {
        self.clear()
    }

    fn clear(&mut self) -> Result<(), CgroupError> {
        let mut first = self.kill().err();
        for directory in std::mem::take(&mut self.directories) {
            if let Err(error) = kill::remove(&directory.path) {
                first.get_or_insert(error);
            }
            // Shared with other runs: it goes with the last of them.
            if let Some(group) = directory.path.parent() {
                let _ = fs::remove_dir(group);
            }
        }
        if let Some(leaf) = self.leaf.take() {
            leaf.undo();
        }
        first.map_or(Ok(()), Err)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nobody is left to be told; the sweep of the next start tries again.
        let _ = self.clear();
    }
}

/// Each limit of the plan as a setting of the tree where its controller lives (`true`: v2), or as missing.
fn wanted(plan: &CgroupPlan, layout: &Layout) -> (Vec<(Setting, bool)>, Vec<Missing>) {
    let device = plan
        .io_max
        .as_ref()
        .map(|io| device::of(&io.directory, Path::new("/proc"), Path::new("/sys")));
    let (v2_settings, v2_missing) = v2::settings(plan, device.as_ref());
    let (v1_settings, v1_missing) = v1::settings(plan, device.as_ref());
    let mut settings = Vec::new();
    let mut missing = Vec::new();
    for limit in [
        Limit::Memory,
        Limit::Swap,
        Limit::Cpu,
        Limit::Pids,
        Limit::Io,
    ] {
        let unified = !layout.in_legacy(v1::controller(limit));
        let (from, lacks) = if unified {
            (&v2_settings, &v2_missing)
        } else {
            (&v1_settings, &v1_missing)
        };
        settings.extend(
            from.iter()
                .filter(|setting| setting.limit == limit)
                .map(|setting| (setting.clone(), unified)),
        );
        missing.extend(lacks.iter().filter(|lack| lack.limit == limit).cloned());
    }
    (settings, missing)
}

/// Writes the settings to a directory that exists and reads each back.
pub(crate) fn apply(directory: &Path, settings: &[Setting]) -> (Vec<Applied>, Vec<Missing>) {
    let mut applied = Vec::new();
    let mut missing = Vec::new();
    for setting in settings {
        let by = directory.join(setting.file);
        match write(&by, &setting.value).and_then(|()| fs::read_to_string(&by)) {
            Ok(value) => applied.push(Applied {
                limit: setting.limit,
                value: value.trim().to_owned(),
                by,
                partly: setting.partly.clone(),
            }),
            Err(error) => missing.push(Missing {
                limit: setting.limit,
                why: format!("writing `{}` to `{}`: {error}", setting.value, by.display()),
                remedy: layout::remedy_for_setting(setting, &error),
            }),
        }
    }
    (applied, missing)
}

/// Writes a control file in one call and never makes one: in a cgroup a name that is missing is a lack, not a new file.
pub(crate) fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    file.write_all(value.as_bytes())
}

/// The number behind `key` in a file of `key value` lines, or the file's only number when `key` is empty.
pub(crate) fn number(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    if key.is_empty() {
        return text.trim().parse().ok();
    }
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Makes `parent/nemoclaw/name`. The middle directory may be removed by another run between the two calls.
pub(crate) fn make(
    parent: &Path,
    name: &str,
    between: impl Fn(&Path),
) -> Result<PathBuf, (PathBuf, io::Error)> {
    let group = parent.join(GROUP);
    let path = group.join(name);
    for _ in 0..16 {
        match fs::create_dir(&group) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err((group, error)),
        }
        between(&group);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let _ = fs::remove_dir(&group);
                return Err((path, error));
            }
        }
    }
    Err((path, io::Error::from(io::ErrorKind::NotFound)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_that_is_missing_is_a_lack_and_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("pids.max"), "max\n").unwrap();
        let setting = |limit, file, value: &str| Setting {
            limit,
            controller: "any",
            file,
            value: value.to_owned(),
            partly: None,
        };
        let (applied, missing) = apply(
            directory.path(),
            &[
                setting(Limit::Pids, "pids.max", "512"),
                setting(Limit::Swap, "memory.swap.max", "0"),
            ],
        );
        let by = directory.path().join("pids.max");
        assert_eq!(
            applied,
            [Applied {
                limit: Limit::Pids,
                value: "512".to_owned(),
                by,
                partly: None
            }]
        );
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].limit, Limit::Swap);
        assert!(
            missing[0].why.contains("memory.swap.max"),
            "{}",
            missing[0].why
        );
        assert!(!directory.path().join("memory.swap.max").exists());
    }

    #[test]
    fn a_number_is_found_by_its_whole_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.events");
        fs::write(&file, "low 0\noom 3\noom_kill 2\n").unwrap();
        assert_eq!(number(&file, "oom_kill"), Some(2));
        assert_eq!(number(&file, "oom"), Some(3));
        assert_eq!(number(&file, "oo"), None);
    }
}
