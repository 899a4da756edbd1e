//! The launch plan: everything that will be done, in order, as data.
//!
//! What is printed is what runs: `nemoclaw-init` executes [`LaunchPlan::steps`]
//! from the first to the last and knows nothing else. A step never decides, so
//! all decisions are visible here.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupPlan;
use crate::seccomp::Filter;

/// One sandbox, from the host's side (the cgroup) to the exec of the command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// The agent's name, for messages and the cgroup.
    pub name: String,
    /// Limits that are set before the first process starts; none when the host
    /// has no cgroup for us.
    pub cgroup: Option<CgroupPlan>,
    /// How ids inside the user namespace stand for ids outside.
    pub identity: Identity,
    /// What `nemoclaw-init` does, in order. The last step executes the command.
    pub steps: Vec<Step>,
}

/// The one user and the one group that exist inside (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What the agent sees as its user id.
    pub inside_uid: u32,
    /// What the agent sees as its group id.
    pub inside_gid: u32,
    /// The host's user id behind it.
    pub outside_uid: u32,
    /// The host's group id behind it.
    pub outside_gid: u32,
    /// Whether the supervisor may leave `setgroups` usable, so that the
    /// supplementary groups can be dropped. An unprivileged supervisor must deny
    /// `setgroups` before it may write a group map, and the groups stay.
    pub drop_groups: bool,
}

/// A namespace kind (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum Namespace {
    User,
    Mount,
    Pid,
    Net,
    Ipc,
    Uts,
    Cgroup,
    Time,
}

/// A host path with the identity that it had when it was resolved.
///
/// `nemoclaw-init` opens it without following any symbolic link and compares:
/// what was swapped in the meantime is refused, not mounted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// Canonical path on the host.
    pub path: String,
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// What a mount forbids, on top of `nosuid`, which every mount has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// `MOUNT_ATTR_RDONLY`
    pub read_only: bool,
    /// `MOUNT_ATTR_NOEXEC`
    pub no_exec: bool,
    /// Leaves device files usable: only for the few that are mounted singly.
    pub devices: bool,
}

/// File rights as Landlock names them (`LANDLOCK_ACCESS_FS_*`), a bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub struct FileRights(pub u64);

/// One Landlock rule: what may be done beneath a path of the private root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRights {
    /// Path inside the private root.
    pub path: String,
    /// Rights on it and beneath it.
    pub rights: FileRights,
}

/// Landlock, as it will be asked for; every part must be granted or the step fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockRules {
    /// The kernel's ABI that the rules were made for.
    pub abi: u32,
    /// Rights that are refused unless a rule grants them.
    pub handled: FileRights,
    /// Whether TCP is handled: then only `connect_ports` may be connected to and
    /// none bound.
    pub handle_tcp: bool,
    /// TCP ports that may be connected to, when TCP is handled.
    pub connect_ports: Vec<u16>,
    /// Whether signals and abstract Unix sockets stop at the sandbox (ABI 6).
    pub scoped: bool,
    /// Whether the kernel is asked to log denials of the executed program (ABI 7).
    pub log_denials: bool,
    /// The rules.
    pub rules: Vec<PathRights>,
}

/// A resource limit (getrlimit(2)); soft and hard are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// Which.
    pub resource: Resource,
    /// Its value, in the resource's own unit.
    pub value: u64,
}

/// The limits that plans set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// `RLIMIT_CORE`, bytes
    Core,
    /// `RLIMIT_NOFILE`, descriptors
    OpenFiles,
    /// `RLIMIT_NPROC`, tasks of this user in this user namespace
    Processes,
    /// `RLIMIT_MEMLOCK`, bytes
    LockedMemory,
}

/// What is executed at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A path inside the private root.
    Path(String),
    /// The n-th descriptor that the supervisor passes beside the standard three,
    /// executed without a path (execveat(2) with `AT_EMPTY_PATH`).
    Descriptor(usize),
}

/// The command, as the agent's first process will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The file.
    pub program: Program,
    /// Arguments, the first being the name.
    pub arguments: Vec<String>,
    /// The whole environment, `NAME=value`.
    pub environment: Vec<String>,
    /// Directory to start in, inside the private root.
    pub directory: String,
    /// Which of standard input, output and error are the terminal of
    /// [`Step::Terminal`]; the others are those of the caller.
    pub terminal: [bool; 3],
    /// A filter that goes in after the last fork, for profiles that let nobody fork.
    pub filter: Option<Filter>,
}

/// One thing that `nemoclaw-init` does.
///
/// Numbered from 1 in messages. Each variant's documentation names the kernel
/// rule that it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Dies when the supervisor's thread does (`PR_SET_PDEATHSIG`, prctl(2)).
    DieWithSupervisor,
    /// Makes the mapping that lets idmapped mounts show the person's files as the
    /// agent's and write the agent's as the person's (mount_setattr(2)). Needs
    /// privilege over the file systems concerned, so it stands before `Unshare`.
    IdmapNamespace {
        /// Owner on disk.
        person_uid: u32,
        /// Group on disk.
        person_gid: u32,
        /// Host id behind the agent.
        agent_uid: u32,
        /// Host group id behind the agent.
        agent_gid: u32,
    },
    /// Opens a host path without following links, checks that it is the one that
    /// was resolved and clones its mount tree (open_tree(2)).
    CloneTree {
        /// Number by which `Attach` refers to it.
        slot: usize,
        /// What.
        source: Source,
        /// Whether ids are mapped by `IdmapNamespace`.
        idmapped: bool,
    },
    /// Leaves the namespaces of the host (unshare(2)), and makes every mount
    /// private so that nothing propagates.
    Unshare {
        /// Which; `user` first, so that the others belong to it.
        namespaces: Vec<Namespace>,
    },
    /// Tells the supervisor, which writes the id maps and then says go.
    AwaitMaps,
    /// Becomes the mapped user and drops supplementary groups, keeping the
    /// capabilities in the new user namespace for the steps that follow.
    TakeIdentity,
    /// Sets the clocks of the time namespace to zero at launch
    /// (`/proc/self/timens_offsets`, time_namespaces(7)), so that the host's
    /// uptime is not shown. Stands before `TakeIdentity`, with which the files of
    /// this process in proc change their owner.
    ResetClocks,
    /// Forks; what follows is done by process 1 of the pid namespace
    /// (pid_namespaces(7)), the rest waits for it.
    BecomeInit,
    /// sethostname(2).
    HostName(String),
    /// Brings the loopback interface up (netdevice(7)).
    LoopbackUp,
    /// Listens on TCP and hands the socket to the supervisor.
    Listen {
        /// IPv4 address in the sandbox's own network.
        address: std::net::Ipv4Addr,
        /// Port.
        port: u16,
    },
    /// A tmpfs that will be the root directory.
    NewRoot {
        /// Upper bound in bytes of what it may hold.
        size: u64,
    },
    /// A fresh proc for the pid namespace. Stands before `PivotRoot`: the kernel
    /// allows it only while the host's proc is still visible.
    MountProc,
    /// Makes the new root the root and detaches the old one (pivot_root(2)).
    PivotRoot,
    /// Makes a directory with its parents.
    Directory {
        /// Path inside.
        path: String,
        /// Permissions.
        mode: u32,
    },
    /// Makes an empty file as a place to mount on.
    Placeholder {
        /// Path inside.
        path: String,
    },
    /// Writes a small read-only file.
    File {
        /// Path inside.
        path: String,
        /// What it holds.
        content: String,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Path inside.
        path: String,
        /// What it points to.
        target: String,
    },
    /// Attaches a cloned tree (move_mount(2)) with its attributes on the whole of it.
    Attach {
        /// From `CloneTree`.
        slot: usize,
        /// Path inside.
        path: String,
        /// What it forbids.
        attributes: Attributes,
    },
    /// A tmpfs of the agent's own.
    MountTmpfs {
        /// Path inside.
        path: String,
        /// Permissions of its root directory.
        mode: u32,
        /// Bytes.
        size: u64,
        /// What it forbids.
        attributes: Attributes,
    },
    /// A terminal directory of its own (devpts with `newinstance`).
    MountPts,
    /// Mounts a tree of the private root over itself with other attributes. With
    /// none it still pins the place: a mount point cannot be renamed or removed.
    Rebind {
        /// Path inside.
        path: String,
        /// What it forbids.
        attributes: Attributes,
    },
    /// Covers a file or directory with one that nobody can open.
    Mask {
        /// Path inside.
        path: String,
        /// Whether it is a directory.
        directory: bool,
    },
    /// Makes a mount read-only, without those below it.
    SealMount {
        /// Path inside.
        path: String,
    },
    /// Takes a pair of pseudo terminals from the sandbox's own devpts and hands
    /// the master to the supervisor.
    Terminal {
        /// Rows and columns at start.
        size: (u16, u16),
    },
    /// setrlimit(2).
    Limit(ResourceLimit),
    /// Empties all five capability sets and locks the secure bits (capabilities(7)).
    DropCapabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// Landlock. Stands after the mounts, for a Landlock domain may not change
    /// the file-system topology.
    Landlock(LandlockRules),
    /// Installs the filter. Last before the command, so that it need not allow
    /// what the steps before it use.
    Seccomp {
        /// The filter.
        filter: Filter,
        /// Whether a reported call waits for its answer undisturbed by signals
        /// (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`).
        wait_killable: bool,
    },
    /// Forks the command, closes every other descriptor and executes it.
    Execute(Command),
    /// Fails with this `errno`. Used to show that a failure at any place is
    /// reported and cleaned up.
    Fail(i32),
}

const FILE_RIGHTS: [(&str, u64); 17] = [
    ("execute", 1 << 0),
    ("write_file", 1 << 1),
    ("read_file", 1 << 2),
    ("read_dir", 1 << 3),
    ("remove_dir", 1 << 4),
    ("remove_file", 1 << 5),
    ("make_char", 1 << 6),
    ("make_dir", 1 << 7),
    ("make_reg", 1 << 8),
    ("make_sock", 1 << 9),
    ("make_fifo", 1 << 10),
    ("make_block", 1 << 11),
    ("make_sym", 1 << 12),
    ("refer", 1 << 13),
    ("truncate", 1 << 14),
    ("ioctl_dev", 1 << 15),
    ("resolve_unix", 1 << 16),
];

impl FileRights {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Reading files and listing directories.
    pub const READ: Self = Self(1 << 2 | 1 << 3);
    /// Writing, truncating and creating everything but device files, and moving
    /// between directories.
    pub const WRITE: Self =
        Self(1 << 1 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 14);
    /// Removing files and directories.
    pub const DELETE: Self = Self(1 << 4 | 1 << 5);
    /// Executing files.
    pub const EXECUTE: Self = Self(1);
    /// Device-specific `ioctl(2)` on devices opened from now on.
    pub const IOCTL_DEVICE: Self = Self(1 << 15);
    /// Connecting to path Unix sockets.
    pub const RESOLVE_UNIX: Self = Self(1 << 16);
    /// Those that make sense for a file; the others are for directories only and
    /// the kernel refuses a rule that gives them to a file.
    pub const FOR_FILES: Self = Self(1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15 | 1 << 16);

    /// All rights that an ABI of the kernel knows
    /// (<https://docs.kernel.org/userspace-api/landlock.html>).
    #[must_use]
    pub fn of_abi(abi: u32) -> Self {
        let count = match abi {
            0 => 0,
            1 => 13,
            2 => 14,
            3 | 4 => 15,
            5..=8 => 16,
            _ => 17,
        };
        Self((1 << count) - 1)
    }

    /// Whether none is set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for FileRights {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for FileRights {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl std::ops::BitAnd for FileRights {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for FileRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = FILE_RIGHTS
            .iter()
            .filter(|(_, bit)| self.0 & bit != 0)
            .map(|(name, _)| *name)
            .collect();
        f.write_str(&names.join(","))
    }
}

impl Serialize for FileRights {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileRights {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut rights = Self::NONE;
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let bit = FILE_RIGHTS.iter().find(|(name, _)| *name == word);
            let (_, bit) = bit
                .ok_or_else(|| serde::de::Error::custom(format!("`{word}` is not a file right")))?;
            rights.0 |= bit;
        }
        Ok(rights)
    }
}

impl Attributes {
    /// Readable only, nothing executable.
    pub const SEALED: Self = Self {
        read_only: true,
        no_exec: true,
        devices: false,
    };
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.read_only {
            "read-only"
        } else {
            "writable"
        })?;
        f.write_str(",nosuid")?;
        if !self.devices {
            f.write_str(",nodev")?;
        }
        if self.no_exec {
            f.write_str(",noexec")?;
        }
        Ok(())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Pid => "pid",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        })
    }
}

impl fmt::Display for ResourceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        match self.resource {
            Resource::Core => write!(f, "core dumps to {value} bytes"),
            Resource::OpenFiles => write!(f, "open files to {value}"),
            Resource::Processes => write!(f, "processes to {value}"),
            Resource::LockedMemory => write!(f, "locked memory to {value} bytes"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DieWithSupervisor => f.write_str("die when the supervisor dies"),
            Self::IdmapNamespace {
                person_uid,
                person_gid,
                agent_uid,
                agent_gid,
            } => write!(
                f,
                "show files of {person_uid}:{person_gid} as those of {agent_uid}:{agent_gid}"
            ),
            Self::CloneTree {
                source, idmapped, ..
            } => {
                write!(f, "open `{}`", source.path.escape_debug())?;
                f.write_str(if *idmapped { " with ids mapped" } else { "" })
            }
            Self::Unshare { namespaces } => {
                let names: Vec<String> = namespaces.iter().map(ToString::to_string).collect();
                write!(f, "enter new namespaces ({})", names.join(", "))
            }
            Self::AwaitMaps => f.write_str("map the user and group ids"),
            Self::TakeIdentity => f.write_str("become the mapped user"),
            Self::ResetClocks => f.write_str("start the clocks at zero"),
            Self::BecomeInit => f.write_str("become process 1"),
            Self::HostName(name) => write!(f, "set the host name `{}`", name.escape_debug()),
            Self::LoopbackUp => f.write_str("bring the loopback interface up"),
            Self::Listen { address, port } => write!(f, "listen on {address}:{port}"),
            Self::NewRoot { .. } => f.write_str("make a private root"),
            Self::MountProc => f.write_str("mount proc"),
            Self::PivotRoot => f.write_str("enter the private root"),
            Self::Directory { path, .. } => write!(f, "make directory `{}`", path.escape_debug()),
            Self::Placeholder { path } => write!(f, "make mount point `{}`", path.escape_debug()),
            Self::File { path, .. } => write!(f, "write `{}`", path.escape_debug()),
            Self::Symlink { path, target } => {
                write!(
                    f,
                    "link `{}` to `{}`",
                    path.escape_debug(),
                    target.escape_debug()
                )
            }
            Self::Attach {
                path, attributes, ..
            } => {
                write!(f, "mount `{}` {attributes}", path.escape_debug())
            }
            Self::MountTmpfs {
                path,
                size,
                attributes,
                ..
            } => {
                write!(
                    f,
                    "mount a private `{}` of {size} bytes {attributes}",
                    path.escape_debug()
                )
            }
            Self::MountPts => f.write_str("mount a private `/dev/pts`"),
            Self::Rebind { path, attributes } if *attributes == Attributes::default() => {
                write!(f, "pin `{}`", path.escape_debug())
            }
            Self::Rebind { path, attributes } => {
                write!(f, "remount `{}` {attributes}", path.escape_debug())
            }
            Self::Mask { path, .. } => write!(f, "mask `{}`", path.escape_debug()),
            Self::SealMount { path } => write!(f, "seal `{}` read-only", path.escape_debug()),
            Self::Terminal { .. } => f.write_str("open a terminal of its own"),
            Self::Limit(limit) => write!(f, "limit {limit}"),
            Self::DropCapabilities => f.write_str("drop all capabilities"),
            Self::NoNewPrivileges => f.write_str("forbid new privileges"),
            Self::Landlock(rules) => write!(
                f,
                "restrict files with Landlock ABI {} ({} rules)",
                rules.abi,
                rules.rules.len()
            ),
            Self::Seccomp { filter, .. } => write!(
                f,
                "restrict system calls to profile `{}` ({} allowed, {} by argument)",
                filter.profile, filter.counts.allowed, filter.counts.conditional
            ),
            Self::Execute(command) => match &command.program {
                Program::Path(path) => write!(f, "execute `{}`", path.escape_debug()),
                Program::Descriptor(_) => {
                    let name = command.arguments.first().map_or("", String::as_str);
                    write!(f, "execute the pinned `{}`", name.escape_debug())
                }
            }
            .and_then(|()| match &command.filter {
                Some(filter) => write!(f, " under profile `{}`", filter.profile),
                None => Ok(()),
            }),
            Self::Fail(errno) => write!(f, "fail with error {errno}"),
        }
    }
}

impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.identity;
        writeln!(f, "agent `{}`", self.name.escape_debug())?;
        writeln!(
            f,
            "user {}:{} inside is {}:{} outside",
            id.inside_uid, id.inside_gid, id.outside_uid, id.outside_gid
        )?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>4}. {step}", index + 1)?;
            if let Step::Landlock(rules) = step {
                for rule in &rules.rules {
                    writeln!(f, "        {} {}", rule.path.escape_debug(), rule.rights)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_rights_survive_being_written_and_read() {
        for rights in [FileRights::NONE, FileRights::WRITE, FileRights::of_abi(9)] {
            let text = serde_json::to_string(&rights).unwrap();
            assert_eq!(serde_json::from_str::<FileRights>(&text).unwrap(), rights);
        }
    }

    #[test]
    fn an_unknown_file_right_is_refused() {
        let error = serde_json::from_str::<FileRights>("\"read_file,reed\"").unwrap_err();
        assert!(error.to_string().contains("`reed` is not a file right"));
    }

    #[test]
    fn our_file_rights_are_those_of_the_landlock_crate() {
        use landlock::{ABI, Access, AccessFs};
        let abis = [
            ABI::Unsupported,
            ABI::V1,
            ABI::V2,
            ABI::V3,
            ABI::V4,
            ABI::V5,
            ABI::V6,
            ABI::V7,
            ABI::V8,
            ABI::V9,
        ];
        for (number, abi) in (0..).zip(abis) {
            assert_eq!(FileRights::of_abi(number).0, AccessFs::from_all(abi).bits());
        }
        assert_eq!(
            FileRights::FOR_FILES.0,
            (AccessFs::from_file(ABI::V9)).bits()
        );
    }
}
