//! Which trees this host has, where in them we stand, and where children of ours can be made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::{Deserialize, Serialize};

use super::stale::LEAF;
use super::{Limit, Missing, Setting, v2};

/// The controllers that limits need, by their v2 names.
const WANTED: [&str; 4] = ["memory", "cpu", "pids", "io"];

/// The cgroup trees of this host as this process sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Which of the layouts it is.
    pub kind: Kind,
    /// The v2 tree.
    pub unified: Option<Unified>,
    /// The v1 trees.
    pub legacy: Vec<Legacy>,
    /// The process whose places these are.
    pub owner: Owner,
    /// Whether the effective user is root, which changes the remedies.
    pub root: bool,
}

/// Which of the layouts a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// No tree is mounted.
    None,
    /// One tree for each controller.
    V1,
    /// One tree.
    V2,
    /// v1 trees beside a v2 tree.
    Hybrid,
}

/// The v2 tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unified {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Our own cgroup.
    pub own: PathBuf,
    /// Where children are best made, or `None`.
    pub place: Option<Place>,
    /// Why the first places looked at could not be used.
    pub refusals: Vec<String>,
}

/// A cgroup of the v2 tree in which children can be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The cgroup.
    pub path: PathBuf,
    /// The controllers that a child gets, or gets once they are enabled.
    pub controllers: Vec<String>,
    /// Controllers that the kernel has and that cannot be handed on from here, each with the reason.
    pub withheld: Vec<(String, String)>,
    /// Whether the owner stands here and must move into a leaf before controllers can be enabled.
    pub leaf: bool,
}

/// A v1 tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legacy {
    /// Its controllers, or `name=…`.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Our own cgroup, beneath which children are made.
    pub own: PathBuf,
    /// Why no child can be made there.
    pub refusal: Option<String>,
}

impl Legacy {
    /// Whether this tree has a controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }
}

/// A supervisor: its process id, the start time that tells it from a later process of that id, and its pid namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process id.
    pub pid: u32,
    /// Clock ticks between boot and its start (`proc_pid_stat(5)`, field 22).
    pub start: u64,
    /// The inode of its pid namespace.
    pub pid_namespace: u64,
}

impl Owner {
    pub(super) fn tag(&self) -> String {
        format!("{}.{}.{}", self.pid, self.start, self.pid_namespace)
    }

    pub(super) fn leaf(&self) -> String {
        format!("{LEAF}.{}", self.tag())
    }

    /// Whether the process is still there.
    pub(super) fn lives(&self, proc: &Path) -> bool {
        started(&proc.join(format!("{}/stat", self.pid)))
            .is_some_and(|(_, start)| start == self.start)
    }

    fn of(proc: &Path) -> Self {
        let (pid, start) = started(&proc.join("self/stat")).unwrap_or((std::process::id(), 0));
        let link = fs::read_link(proc.join("self/ns/pid")).unwrap_or_default();
        let digits = link
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>();
        Self {
            pid,
            start,
            pid_namespace: digits.parse().unwrap_or(0),
        }
    }
}

/// Process id and start time from a `stat` file; the command between them may hold spaces and brackets.
fn started(path: &Path) -> Option<(u32, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let (pid, rest) = text.split_once(' ')?;
    let (_, fields) = rest.rsplit_once(") ")?;
    Some((pid.parse().ok()?, fields.split(' ').nth(19)?.parse().ok()?))
}

/// How it is found out whether children can be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// Make one and remove it.
    Try,
    /// Ask for the permission (`faccessat2(2)`), which is faster and may be too hopeful.
    Permission,
}

impl Layout {
    /// Reads `proc/self/{mountinfo,cgroup,stat}` and tries each place by making and removing a child.
    #[must_use]
    pub fn detect(proc: &Path) -> Self {
        Self::look(proc, Ask::Try)
    }

    /// Like [`Layout::detect`], but asks for permissions only and changes nothing: for each launch, where
    /// [`Cgroup::create`](super::Cgroup::create) is the try.
    #[must_use]
    pub fn read(proc: &Path) -> Self {
        Self::look(proc, Ask::Permission)
    }

    fn look(proc: &Path, ask: Ask) -> Self {
        let owner = Owner::of(proc);
        let mounts = fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default();
        let memberships = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
        let mut unified = None;
        let mut legacy: Vec<Legacy> = Vec::new();
        for mount in mounts.lines().filter_map(Mount::parse) {
            if mount.unified {
                let own = own(&memberships, &mount, |controllers| controllers.is_empty());
                unified.get_or_insert_with(|| Unified::look(&mount, own, &owner, ask));
                continue;
            }
            let member = |controllers: &str| {
                controllers
                    .split(',')
                    .any(|one| mount.options.iter().any(|o| o == one))
            };
            let Some(line) = memberships
                .lines()
                .find(|line| line.split(':').nth(1).is_some_and(member))
            else {
                continue;
            };
            let controllers: Vec<String> = line
                .split(':')
                .nth(1)
                .unwrap_or_default()
                .split(',')
                .map(str::to_owned)
                .collect();
            if legacy.iter().any(|tree| tree.controllers == controllers) {
                continue;
            }
            legacy.push(match own(&memberships, &mount, member) {
                Ok(own) => {
                    let refusal = refusal(&own, &owner, ask);
                    Legacy {
                        controllers,
                        mount: mount.point,
                        own,
                        refusal,
                    }
                }
                Err(why) => Legacy {
                    controllers,
                    own: mount.point.clone(),
                    mount: mount.point,
                    refusal: Some(why),
                },
            });
        }
        let kind = match (
            &unified,
            legacy
                .iter()
                .any(|tree| !tree.controllers.iter().all(|one| one.contains('='))),
        ) {
            (None, false) => Kind::None,
            (None, true) => Kind::V1,
            (Some(_), false) => Kind::V2,
            (Some(_), true) => Kind::Hybrid,
        };
        Self {
            kind,
            unified,
            legacy,
            owner,
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// Whether a controller (by its v1 name) has a v1 tree of its own; the v2 tree cannot have it then.
    #[must_use]
    pub fn in_legacy(&self, controller: &str) -> bool {
        self.legacy.iter().any(|tree| tree.has(controller))
    }

    /// For each limit, whether it can be expected to hold here, without setting any: `None` when it can.
    #[must_use]
    pub fn lack(&self, limit: Limit) -> Option<Missing> {
        let old = super::v1::controller(limit);
        if let Some(tree) = self.legacy.iter().find(|tree| tree.has(old)) {
            let refusal = tree.refusal.as_ref()?;
            return Some(self.unavailable(limit, refusal.clone()));
        }
        let new = v2::controller(limit);
        match self
            .unified
            .as_ref()
            .and_then(|unified| unified.place.as_ref())
        {
            None => Some(self.no_place(limit)),
            Some(place) if new.is_empty() || place.controllers.iter().any(|one| one == new) => None,
            Some(place) => Some(self.no_controller(limit, new, place)),
        }
    }

    pub(super) fn no_place(&self, limit: Limit) -> Missing {
        let why = match &self.unified {
            None => "no cgroup tree with this controller is mounted".to_owned(),
            Some(unified) => format!(
                "no cgroup of ours can be made: {}",
                unified.refusals.join("; ")
            ),
        };
        let remedy = match &self.unified {
            None => "mount the v2 tree: `mount -t cgroup2 none /sys/fs/cgroup` (in a container: start it with its own cgroup namespace and a writable tree)".to_owned(),
            Some(_) => self.delegation(),
        };
        Missing { limit, why, remedy }
    }

    pub(super) fn no_directory(&self, limit: Limit, path: &Path, error: &io::Error) -> Missing {
        self.unavailable(
            limit,
            format!("could not make cgroup `{}`: {error}", path.display()),
        )
    }

    pub(super) fn unavailable(&self, limit: Limit, why: String) -> Missing {
        Missing {
            limit,
            why,
            remedy: self.delegation(),
        }
    }

    pub(super) fn no_controller(&self, limit: Limit, controller: &str, place: &Place) -> Missing {
        match place.withheld.iter().find(|(name, _)| name == controller) {
            Some((_, why)) => Missing {
                limit,
                why: why.clone(),
                remedy: self.delegation(),
            },
            None => Missing {
                limit,
                why: format!(
                    "controller `{controller}` is not offered in `{}`",
                    place.path.display()
                ),
                remedy: if self.root {
                    format!(
                        "enable it from the top: write `+{controller}` to `cgroup.subtree_control` of each cgroup above, or boot a kernel that has it (no `cgroup_disable={controller}`)"
                    )
                } else {
                    format!(
                        "let systemd delegate it: `Delegate=cpu cpuset io memory pids` in a drop-in for `user@.service`; until then this user gets no `{controller}`"
                    )
                },
            },
        }
    }

    pub(super) fn not_enabled(
        &self,
        limit: Limit,
        controller: &str,
        at: &Path,
        error: &io::Error,
    ) -> Missing {
        Missing {
            limit,
            why: format!(
                "could not enable `{controller}` in `{}`: {error}",
                at.join("cgroup.subtree_control").display()
            ),
            remedy: self.delegation(),
        }
    }

    fn delegation(&self) -> String {
        match (self.kind, self.root) {
            (Kind::V1 | Kind::Hybrid, false) => "cgroup v1 is root's alone: start with sudo, or boot with `systemd.unified_cgroup_hierarchy=1`".to_owned(),
            (_, false) => "start under a delegated scope: `systemd-run --user --scope -p Delegate=yes nemoclaw-supervisor run …`".to_owned(),
            (Kind::V2, true) => "start under a delegated scope: `systemd-run --scope -p Delegate=yes nemoclaw-supervisor run …`; in a container: `docker run --cgroupns=private -v /sys/fs/cgroup:/sys/fs/cgroup:rw …`, with the supervisor alone in its cgroup".to_owned(),
            (_, true) => "in a container: mount the cgroup trees writable (`-v /sys/fs/cgroup:/sys/fs/cgroup:rw`)".to_owned(),
        }
    }
}

/// What helps when one control file refused its value.
pub(super) fn remedy_for_setting(setting: &Setting, error: &io::Error) -> String {
    let absent = error.kind() == io::ErrorKind::NotFound;
    match setting.limit {
        Limit::Swap if absent => {
            "boot with `swapaccount=1`, or leave the swap limit out".to_owned()
        }
        Limit::Cpu if absent => {
            "this kernel lacks CONFIG_CFS_BANDWIDTH: boot another, or leave the cpu limit out"
                .to_owned()
        }
        Limit::Io if absent => {
            "this kernel lacks CONFIG_BLK_DEV_THROTTLING: boot another, or leave the io limit out"
                .to_owned()
        }
        _ if error.kind() == io::ErrorKind::InvalidInput => {
            format!("choose a value that `{}` takes", setting.file)
        }
        _ => format!(
            "leave the {} limit out, or start where `{}` is writable",
            setting.limit, setting.file
        ),
    }
}

impl Unified {
    fn look(mount: &Mount, own: Result<PathBuf, String>, owner: &Owner, ask: Ask) -> Self {
        let own = match own {
            Ok(own) => own,
            Err(why) => {
                return Self {
                    mount: mount.point.clone(),
                    own: mount.point.clone(),
                    place: None,
                    refusals: vec![why],
                };
            }
        };
        // After an earlier launch of this process we stand in our own leaf; the place is the cgroup above.
        let aside = own
            .file_name()
            .is_some_and(|name| name.to_string_lossy() == owner.leaf());
        let start = if aside {
            own.parent().unwrap_or(&own)
        } else {
            &own
        };
        let mut best: Option<Place> = None;
        let mut refusals = Vec::new();
        // Upwards: the nearest place with every controller, else the one with most.
        for path in start
            .ancestors()
            .take_while(|path| path.starts_with(&mount.point))
        {
            match Place::look(path, path == own, owner, ask) {
                Ok(place) => {
                    let count = place.wanted();
                    if best.as_ref().is_none_or(|best| count > best.wanted()) {
                        best = Some(place);
                    }
                    if count == WANTED.len() {
                        break;
                    }
                }
                Err(why) => refusals.push(why),
            }
        }
        Self {
            mount: mount.point.clone(),
            own,
            place: best,
            refusals,
        }
    }
}

impl Place {
    fn look(path: &Path, ours: bool, owner: &Owner, ask: Ask) -> Result<Self, String> {
        if let Some(why) = refusal(path, owner, ask) {
            return Err(why);
        }
        // Moving a process needs the right to write this file in the cgroup above both ends (cgroup-v2.rst, delegation).
        writable(&path.join("cgroup.procs"))?;
        let kind = fs::read_to_string(path.join("cgroup.type")).ok();
        if kind.as_deref().is_some_and(|kind| kind.trim() != "domain") {
            return Err(format!("`{}` is a threaded cgroup", path.display()));
        }
        // Only the true root has no type; the rule against processes in inner cgroups does not bind it.
        let top = kind.is_none();
        let available = v2::words(&path.join("cgroup.controllers"));
        let enabled = v2::enabled(path);
        let processes: BTreeSet<String> = v2::words(&path.join("cgroup.procs"));
        let strangers = processes
            .iter()
            .filter(|pid| **pid != owner.pid.to_string())
            .count();
        let hindrance = if let Err(why) = writable(&path.join("cgroup.subtree_control")) {
            Some(why)
        } else if !top && strangers > 0 {
            Some(format!(
                "`{}` holds {strangers} other processes, and a cgroup with processes hands no controllers on",
                path.display()
            ))
        } else {
            None
        };
        let mut withheld = Vec::new();
        let mut controllers = Vec::new();
        for controller in available {
            match &hindrance {
                Some(why) if !enabled.contains(&controller) => {
                    withheld.push((
                        controller.clone(),
                        format!("controller `{controller}` cannot be enabled: {why}"),
                    ));
                }
                _ => controllers.push(controller),
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            controllers,
            withheld,
            leaf: ours && !top,
        })
    }

    fn wanted(&self) -> usize {
        WANTED
            .iter()
            .filter(|one| self.controllers.iter().any(|other| other == *one))
            .count()
    }
}

static TRIES: AtomicU32 = AtomicU32::new(0);

/// Why no child can be made in a cgroup.
fn refusal(own: &Path, owner: &Owner, ask: Ask) -> Option<String> {
    let tried = match ask {
        Ask::Permission => accessat(
            CWD,
            own,
            Access::WRITE_OK | Access::EXEC_OK,
            AtFlags::EACCESS,
        )
        .map_err(io::Error::from),
        Ask::Try => {
            // Threads may look at once.
            let count = TRIES.fetch_add(1, Ordering::Relaxed);
            let probe = own.join(format!("nemoclaw-try-{count}.{}", owner.tag()));
            fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe))
        }
    };
    let error = tried.err()?;
    Some(format!(
        "no child can be made in cgroup `{}`: {error}",
        own.display()
    ))
}

fn writable(path: &Path) -> Result<(), String> {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).map_err(|error| {
        format!(
            "`{}` is not writable: {}",
            path.display(),
            io::Error::from(error)
        )
    })
}

/// A mounted cgroup tree (`proc_pid_mountinfo(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    point: PathBuf,
    unified: bool,
    options: Vec<String>,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        let kind = after.next()?;
        if kind != "cgroup" && kind != "cgroup2" {
            return None;
        }
        Some(Self {
            root: unescape(before.next()?),
            point: PathBuf::from(unescape(before.next()?)),
            unified: kind == "cgroup2",
            options: after.nth(1)?.split(',').map(str::to_owned).collect(),
        })
    }
}

/// Undoes the octal escapes for space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (escape, plain)| {
            text.replace(escape, plain)
        })
}

/// Our cgroup in a mounted tree: the membership's path, seen from the part of the tree that is mounted.
fn own(memberships: &str, mount: &Mount, member: impl Fn(&str) -> bool) -> Result<PathBuf, String> {
    let path = memberships
        .lines()
        .find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            member(controllers).then(|| fields.next())?
        })
        .ok_or_else(|| {
            format!(
                "this process is in no cgroup of `{}`",
                mount.point.display()
            )
        })?;
    let outside = || {
        format!(
            "our cgroup `{path}` lies outside of what is mounted at `{}`",
            mount.point.display()
        )
    };
    let beneath = Path::new(path)
        .strip_prefix(&mount.root)
        .map_err(|_| outside())?;
    if beneath
        .components()
        .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(outside());
    }
    // `join("")` would leave a slash at the end.
    Ok(if beneath.as_os_str().is_empty() {
        mount.point.clone()
    } else {
        mount.point.join(beneath)
    })
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
