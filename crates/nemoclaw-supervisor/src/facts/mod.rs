//! What this host offers, as plain data: planning reads it and asks the host nothing itself.
//!
//! There are two ways to learn it. [`HostFacts::probe_quick`] runs at each launch: it reads files of `/proc` and asks
//! the kernel for version numbers; it starts no process and changes nothing, because there the launch itself is the
//! try: each step that fails names itself. [`HostFacts::probe_thorough`] is for `doctor`: it also lets
//! `nemoclaw-init --probe` try every mechanism in processes of its own, and makes and removes cgroups.

#[cfg(test)]
pub(crate) mod fixture;
mod mounted;
mod person;
mod restrictions;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nemoclaw_sandbox::cgroup::Layout;
use nemoclaw_sandbox::plan::Namespace;
use nemoclaw_sandbox::probe::{self, Mechanism, Report, Tried};
use nemoclaw_sandbox::seccomp::{self, Architecture};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) use mounted::Mounted;
pub(crate) use person::{Person, PersonError};
pub(crate) use restrictions::{Lack, Restrictions};

/// How long all tries together may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than any honest report holds.
const REPORT_BYTES: u64 = 1 << 20;

/// What this host offers to the person who started us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostFacts {
    /// The kernel's release, as `uname -r` prints it.
    pub(crate) kernel: String,
    /// The architecture whose system calls a filter can be made for; `None` on a machine without a profile.
    pub(crate) architecture: Option<Architecture>,
    /// The effective user id of this process.
    pub(crate) uid: u32,
    /// The effective group id of this process.
    pub(crate) gid: u32,
    /// Effective user id 0 with `CAP_SYS_ADMIN` in the user namespace we stand in.
    pub(crate) privileged: bool,
    /// Whether that user namespace is the machine's first.
    pub(crate) initial_user_namespace: bool,
    /// Who started us, through sudo or not.
    pub(crate) person: Person,
    /// The highest Landlock ABI of the kernel, 0 without Landlock.
    pub(crate) landlock_abi: u32,
    /// The system call filter.
    pub(crate) seccomp: Seccomp,
    /// The kinds of namespaces, by the names in `/proc/self/ns`.
    pub(crate) namespaces: Vec<String>,
    /// Whether this process has groups beside its first, which only privilege can drop.
    pub(crate) supplementary_groups: bool,
    /// Which file system is mounted where, in the order of mounting.
    pub(crate) mounts: Vec<Mounted>,
    /// The owners of the paths that were looked at with [`HostFacts::look_at`].
    pub(crate) owners: BTreeMap<String, u32>,
    /// What settings of the host say about user namespaces.
    pub(crate) restrictions: Restrictions,
    /// The cgroup trees.
    pub(crate) cgroups: Layout,
    /// How far limits of a process may be raised.
    pub(crate) rlimits: Rlimits,
    /// Each mechanism tried; `None` after a quick probe.
    pub(crate) tried: Option<Vec<Tried>>,
}

/// What the kernel says of system call filters (`seccomp(2)`); nothing is installed to learn it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seccomp {
    /// Filters that kill and refuse.
    pub(crate) filter: bool,
    /// Refused calls can be reported (Linux 5.0).
    pub(crate) notify: bool,
    /// A reported call waits without restarting at each signal (Linux 5.19).
    pub(crate) wait_killable: bool,
}

/// Hard limits of this process (`getrlimit(2)`); `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rlimits {
    /// `RLIMIT_NOFILE`, descriptors.
    pub(crate) open_files: u64,
    /// `RLIMIT_MEMLOCK`, bytes.
    pub(crate) locked_memory: u64,
    /// `RLIMIT_NPROC`, tasks.
    pub(crate) processes: u64,
}

impl Rlimits {
    fn read() -> Self {
        use rustix::process::{Resource, getrlimit};
        let hard = |resource| getrlimit(resource).maximum.unwrap_or(u64::MAX);
        Self {
            open_files: hard(Resource::Nofile),
            locked_memory: hard(Resource::Memlock),
            processes: hard(Resource::Nproc),
        }
    }
}

/// Why the facts could not be learnt.
#[derive(Debug, Error)]
pub(crate) enum FactsError {
    /// Who started us is unknown.
    #[error(transparent)]
    Person(#[from] PersonError),
    /// A file of `/proc` could not be read.
    #[error("could not read `{}`; is `/proc` mounted?", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The program that tries could not be started or read.
    #[error("could not run `{} --probe`", path.display())]
    Start { path: PathBuf, source: io::Error },
    /// The program that tries did not end well.
    #[error("`{} --probe` {what}", path.display())]
    Probe { path: PathBuf, what: String },
}

impl HostFacts {
    /// Learns what can be had without trying: for each launch.
    ///
    /// # Errors
    /// When `/proc` cannot be read, or the person is not in the user database.
    pub(crate) fn probe_quick() -> Result<Self, FactsError> {
        Self::read(Layout::read(Path::new("/proc")), None)
    }

    /// Learns by trying: for `doctor`. `init` is the program `nemoclaw-init`, `workdir` the directory whose file
    /// system is tried.
    ///
    /// # Errors
    /// As [`HostFacts::probe_quick`], and when the program cannot be run, runs for a minute or answers nonsense.
    pub(crate) fn probe_thorough(init: &Path, workdir: &Path) -> Result<Self, FactsError> {
        let report = report(init, workdir)?;
        Self::read(report.cgroups, Some(report.tried))
    }

    fn read(cgroups: Layout, tried: Option<Vec<Tried>>) -> Result<Self, FactsError> {
        let uname = rustix::system::uname();
        let status = slurp("/proc/self/status")?;
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let seccomp = seccomp::probe();
        Ok(Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: Architecture::host(),
            uid,
            gid,
            privileged: uid == 0 && may_administer(&status),
            initial_user_namespace: is_whole_map(&slurp("/proc/self/uid_map")?),
            person: Person::who_started()?,
            landlock_abi: probe::landlock_abi(),
            seccomp: Seccomp {
                filter: seccomp.filter,
                notify: seccomp.filter && seccomp.user_notification && seccomp.listener,
                wait_killable: seccomp.wait_killable,
            },
            namespaces: namespaces(),
            supplementary_groups: has_more_groups(&status, gid),
            mounts: mounted::parse(&slurp("/proc/self/mountinfo")?),
            owners: BTreeMap::new(),
            restrictions: Restrictions::read(Path::new("/proc/sys"), Path::new("/sys")),
            cgroups,
            rlimits: Rlimits::read(),
            tried,
        })
    }

    /// Why user namespaces cannot be had: by the try, or, after a quick probe, by the host's settings.
    pub(crate) fn user_namespaces(&self) -> Result<(), Lack> {
        match self.tried(Mechanism::Namespaces, "user") {
            Some(tried) if tried.ok => Ok(()),
            Some(tried) => {
                let said = self
                    .restrictions
                    .against(self.privileged, self.apparmor_profile());
                let remedy = said.map_or_else(|| tried.remedy.clone(), |lack| lack.remedy);
                Err(Lack {
                    why: tried.detail.clone(),
                    remedy,
                })
            }
            None if !self.namespaces.iter().any(|kind| kind == "user") => Err(Lack {
                why: "the kernel has no user namespaces".to_owned(),
                remedy: "boot a kernel built with CONFIG_USER_NS".to_owned(),
            }),
            None => self
                .restrictions
                .against(self.privileged, self.apparmor_profile())
                .map_or(Ok(()), Err),
        }
    }

    /// [`HostFacts::user_namespaces`] as what is lacking and its remedy.
    pub(crate) fn user_namespaces_refused(&self) -> Option<(String, String)> {
        self.user_namespaces()
            .err()
            .map(|lack| (lack.why, lack.remedy))
    }

    /// Whether the kernel has a kind of namespace. Whether it may be made is another matter:
    /// [`HostFacts::user_namespaces`].
    pub(crate) fn has_namespace(&self, namespace: Namespace) -> bool {
        let name = match namespace {
            Namespace::User => "user",
            Namespace::Mount => "mnt",
            Namespace::Pid => "pid",
            Namespace::Net => "net",
            Namespace::Ipc => "ipc",
            Namespace::Uts => "uts",
            Namespace::Cgroup => "cgroup",
            Namespace::Time => "time",
        };
        self.namespaces.iter().any(|kind| kind == name)
    }

    /// Whether `RLIMIT_NPROC` counts the tasks of one user namespace alone, so that it can limit an agent
    /// (Linux 5.14, commit 21d1c5e386bc).
    pub(crate) fn counts_processes(&self) -> bool {
        self.has_namespace(Namespace::User)
            && mounted::release(&self.kernel).is_some_and(|release| release >= (5, 14))
    }

    /// Whether mounts of the file system at `path`, canonical and absolute, can map ids: by its type and the kernel's
    /// release.
    pub(crate) fn can_map_ids(&self, path: &str) -> bool {
        self.initial_user_namespace
            && mounted::at(&self.mounts, path).is_some_and(|mounted| mounted.maps_ids(&self.kernel))
    }

    /// Looks up who owns a path, so that [`HostFacts::owner_of`] knows it.
    pub(crate) fn look_at(&mut self, path: &str) {
        if let Ok(metadata) = fs::metadata(path) {
            self.owners.insert(path.to_owned(), metadata.uid());
        }
    }

    /// The owner of a path that was looked at.
    pub(crate) fn owner_of(&self, path: &str) -> Option<u32> {
        self.owners.get(path).copied()
    }

    /// The outcome of one try.
    pub(crate) fn tried(&self, mechanism: Mechanism, feature: &str) -> Option<&Tried> {
        self.tried
            .as_ref()?
            .iter()
            .find(|tried| tried.mechanism == mechanism && tried.feature == feature)
    }

    fn apparmor_profile(&self) -> Option<&str> {
        self.restrictions.apparmor_profile.as_deref()
    }
}

/// Whether the effective capabilities hold `CAP_SYS_ADMIN` (bit 21, `capabilities(7)`).
fn may_administer(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .is_some_and(|set| set & (1 << 21) != 0)
}

/// Whether a uid map is that of the first user namespace (`user_namespaces(7)`): every id is itself.
fn is_whole_map(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn namespaces() -> Vec<String> {
    let mut kinds: Vec<String> = fs::read_dir("/proc/self/ns")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|kind| !kind.ends_with("_for_children"))
        .collect();
    kinds.sort();
    kinds
}

/// Whether `Groups:` names any but the process's own (`proc_pid_status(5)`).
fn has_more_groups(status: &str, gid: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .is_some_and(|groups| {
            groups
                .split_whitespace()
                .any(|group| group.parse() != Ok(gid))
        })
}

fn slurp(path: &str) -> Result<String, FactsError> {
    fs::read_to_string(path).map_err(|source| FactsError::Read {
        path: PathBuf::from(path),
        source,
    })
}

/// Lets `nemoclaw-init --probe DIRECTORY` try everything and reads its one JSON object.
fn report(init: &Path, workdir: &Path) -> Result<Report, FactsError> {
    let failed = |source| FactsError::Start {
        path: init.to_path_buf(),
        source,
    };
    let nonsense = |what: String| FactsError::Probe {
        path: init.to_path_buf(),
        what,
    };
    let mut child = Command::new(init)
        .arg("--probe")
        .arg(workdir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let (send, receive) = std::sync::mpsc::channel();
    let Some(pipe) = child.stdout.take() else {
        end(&mut child);
        return Err(nonsense("gave no output".to_owned()));
    };
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = pipe.take(REPORT_BYTES).read_to_string(&mut text);
        // The receiver is gone only after the time limit, and then nobody waits for this.
        let _ = send.send(read.map(|_| text));
    });
    let deadline = Instant::now() + PATIENCE;
    let text = match receive.recv_timeout(PATIENCE) {
        Ok(read) => read,
        Err(_) => {
            end(&mut child);
            return Err(nonsense(format!(
                "did not end within {} s",
                PATIENCE.as_secs()
            )));
        }
    };
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                end(&mut child);
                return Err(nonsense(format!(
                    "did not end within {} s",
                    PATIENCE.as_secs()
                )));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if !status.success() {
        return Err(nonsense(format!("failed: {status}")));
    }
    serde_json::from_str(&text.map_err(failed)?)
        .map_err(|error| nonsense(format!("answered nonsense: {error}")))
}

fn end(child: &mut Child) {
    // It may have ended by itself meanwhile; either way it is reaped.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_to_administer_is_read_from_the_effective_set() {
        assert!(may_administer(
            "Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"
        ));
        assert!(!may_administer(
            "CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n"
        ));
        assert!(
            !may_administer("CapEff:\t00000000a80425fb\n"),
            "docker's default set"
        );
        assert!(!may_administer(""));
    }

    #[test]
    fn groups_beside_the_own_one_are_seen() {
        assert!(!has_more_groups("Groups:\t1000 \n", 1000));
        assert!(!has_more_groups("Groups:\t\n", 1000));
        assert!(has_more_groups("Groups:\t27 1000 \n", 1000));
    }

    #[test]
    fn only_the_whole_identity_map_is_the_first_user_namespace() {
        assert!(is_whole_map("         0          0 4294967295\n"));
        assert!(!is_whole_map("         0     100000      65536\n"));
        assert!(!is_whole_map("0 0 1\n1 1 4294967294\n"));
    }

    #[test]
    fn a_quick_probe_is_the_same_twice_and_survives_json() {
        let facts = HostFacts::probe_quick().unwrap();
        let again = HostFacts::probe_quick().unwrap();
        // Other tests may mount meanwhile, and the id of the thread that reads is no fact of the host.
        assert_eq!(
            HostFacts {
                mounts: facts.mounts.clone(),
                ..again
            },
            facts
        );
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<HostFacts>(&text).unwrap(), facts);
        assert!(facts.tried.is_none());
    }

    #[test]
    fn a_probe_that_answers_nonsense_or_fails_is_told_as_such() {
        let nonsense = report(Path::new("/bin/echo"), Path::new("/"))
            .unwrap_err()
            .to_string();
        assert!(nonsense.contains("answered nonsense"), "{nonsense}");
        let failed = report(Path::new("/bin/false"), Path::new("/"))
            .unwrap_err()
            .to_string();
        assert!(failed.contains("failed: exit status: 1"), "{failed}");
        let absent = report(Path::new("/nonexistent/nemoclaw-init"), Path::new("/")).unwrap_err();
        assert!(matches!(absent, FactsError::Start { .. }));
    }
}
