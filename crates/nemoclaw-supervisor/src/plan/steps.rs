//! The order of things. Each step's place follows from a rule of the kernel,
//! which stands beside the step's definition in [`nemoclaw_sandbox::plan::Step`].

use nemoclaw_sandbox::plan::{
    Attributes, Command, Identity, LandlockRules, Namespace, ResourceLimit, Source, Step,
};
use nemoclaw_sandbox::seccomp::Filter;

use super::trees::{Cover, Files, depth};
use super::{HOME, MODEL_ADDRESS, MODEL_PORT, PROXY_PORT};
use crate::facts::HostFacts;
use crate::places::{Kind, PROC_MASKED, Places};

/// Bytes of the root directory's own file system: mount points and a few small files.
const ROOT_SIZE: u64 = 4 << 20;
/// Bytes of `/dev/shm`.
const SHARED_MEMORY_SIZE: u64 = 256 << 20;

/// Which ids mounts translate, and which trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Idmap {
    pub(super) person_uid: u32,
    pub(super) person_gid: u32,
    /// Canonical paths of the trees.
    pub(super) mapped: Vec<String>,
}

/// What the steps are made from.
pub(super) struct Sandbox<'a> {
    pub(super) facts: &'a HostFacts,
    pub(super) places: &'a Places,
    pub(super) files: &'a Files,
    pub(super) identity: Identity,
    pub(super) idmap: Option<Idmap>,
    pub(super) namespaces: &'a [Namespace],
    /// Whether there is a model to be reached.
    pub(super) listens: bool,
    pub(super) host_name: &'a str,
    /// Bytes of `/tmp`.
    pub(super) temporary_size: u64,
    pub(super) terminal: Option<(u16, u16)>,
    pub(super) limits: Vec<ResourceLimit>,
    pub(super) landlock: Option<LandlockRules>,
    pub(super) seccomp: Option<(Filter, bool)>,
    pub(super) command: Command,
}

/// The private directories, which are made and not mounted from the host.
pub(super) fn is_private_directory(path: &str) -> bool {
    matches!(path, "/tmp" | "/proc" | "/dev/pts" | "/dev/shm")
}

impl Sandbox<'_> {
    pub(super) fn assemble(self) -> Vec<Step> {
        let mut steps = vec![Step::DieWithSupervisor];
        let clones = self.clones();
        // With privilege, trees are opened with it, and may have ids mapped; an
        // ordinary user may clone mounts only in a namespace of its own.
        if self.facts.privileged {
            if let Some(idmap) = &self.idmap {
                steps.push(Step::IdmapNamespace {
                    person_uid: idmap.person_uid,
                    person_gid: idmap.person_gid,
                    agent_uid: self.identity.outside_uid,
                    agent_gid: self.identity.outside_gid,
                });
            }
            steps.extend(clones.clone());
        }
        steps.push(Step::Unshare {
            namespaces: self.namespaces.to_vec(),
        });
        if self.namespaces.contains(&Namespace::Time) {
            steps.push(Step::ResetClocks);
        }
        steps.extend([Step::AwaitMaps, Step::TakeIdentity]);
        if !self.facts.privileged {
            steps.extend(clones);
        }
        steps.push(Step::BecomeInit);
        if self.namespaces.contains(&Namespace::Uts) {
            steps.push(Step::HostName(self.host_name.to_owned()));
        }
        if self.namespaces.contains(&Namespace::Net) {
            steps.push(Step::LoopbackUp);
            if self.listens {
                for port in [MODEL_PORT, PROXY_PORT] {
                    steps.push(Step::Listen {
                        address: MODEL_ADDRESS,
                        port,
                    });
                }
            }
        }
        steps.extend([
            Step::NewRoot { size: ROOT_SIZE },
            Step::MountProc,
            Step::PivotRoot,
        ]);
        self.private_places(&mut steps);
        self.host_trees(&mut steps);
        self.synthesised(&mut steps);
        self.covers(&mut steps);
        steps.push(Step::SealMount { path: "/".into() });
        if let Some(size) = self.terminal {
            steps.push(Step::Terminal { size });
        }
        steps.extend(self.limits.into_iter().map(Step::Limit));
        steps.extend([Step::DropCapabilities, Step::NoNewPrivileges]);
        steps.extend(self.landlock.map(Step::Landlock));
        steps.extend(self.seccomp.map(|(filter, wait_killable)| Step::Seccomp {
            filter,
            wait_killable,
        }));
        steps.push(Step::Execute(self.command));
        steps
    }

    /// Host trees first, then devices: the slots that `host_trees` and
    /// `private_places` attach.
    fn sources(&self) -> impl Iterator<Item = &Source> {
        let trees = self.files.trees.iter().map(|tree| &tree.place.source);
        trees.chain(self.places.devices.iter().map(|device| &device.source))
    }

    fn clones(&self) -> Vec<Step> {
        let mapped = |source: &Source| {
            let idmap = self.idmap.as_ref();
            idmap.is_some_and(|idmap| idmap.mapped.contains(&source.path))
        };
        self.sources()
            .enumerate()
            .map(|(slot, source)| Step::CloneTree {
                slot,
                source: source.clone(),
                idmapped: mapped(source),
            })
            .collect()
    }

    /// What comes before host trees, which may lie in it.
    fn private_places(&self, steps: &mut Vec<Step>) {
        let sealed = Attributes {
            no_exec: true,
            ..Attributes::default()
        };
        let tmp_exec = Attributes {
            no_exec: !self.may_execute_in("/tmp"),
            ..Attributes::default()
        };
        for path in ["/dev/pts", "/dev/shm"] {
            steps.push(Step::Directory {
                path: path.into(),
                mode: 0o755,
            });
        }
        steps.push(Step::Directory {
            path: "/tmp".into(),
            mode: 0o755,
        });
        steps.push(Step::MountTmpfs {
            path: "/tmp".into(),
            mode: 0o1777,
            size: self.temporary_size,
            attributes: tmp_exec,
        });
        steps.push(Step::Directory {
            path: HOME.into(),
            mode: 0o700,
        });
        steps.push(Step::MountTmpfs {
            path: "/dev/shm".into(),
            mode: 0o1777,
            size: SHARED_MEMORY_SIZE,
            attributes: sealed,
        });
        steps.push(Step::MountPts);
        let first = self.files.trees.len();
        for (slot, device) in (first..).zip(&self.places.devices) {
            let path = device.named.clone();
            steps.push(Step::Placeholder { path: path.clone() });
            steps.push(Step::Attach {
                slot,
                path,
                attributes: Attributes {
                    devices: true,
                    ..sealed
                },
            });
        }
        for (path, target) in [
            ("/dev/ptmx", "pts/ptmx"),
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
        ] {
            steps.push(Step::Symlink {
                path: path.into(),
                target: target.into(),
            });
        }
    }

    fn may_execute_in(&self, tree: &str) -> bool {
        use nemoclaw_sandbox::plan::FileRights;
        self.files.rights.iter().any(|(path, rights)| {
            crate::places::is_within(path, tree) && !(*rights & FileRights::EXECUTE).is_empty()
        })
    }

    fn host_trees(&self, steps: &mut Vec<Step>) {
        for (slot, tree) in self.files.trees.iter().enumerate() {
            let path = tree.place.path().to_owned();
            steps.push(match tree.place.kind {
                Kind::Directory => Step::Directory {
                    path: path.clone(),
                    mode: 0o755,
                },
                _ => Step::Placeholder { path: path.clone() },
            });
            steps.push(Step::Attach {
                slot,
                path,
                attributes: tree.attributes,
            });
        }
        for (path, target) in &self.files.links {
            steps.push(Step::Symlink {
                path: path.clone(),
                target: target.clone(),
            });
        }
    }

    /// Files that say who and where one is, without the host's.
    fn synthesised(&self, steps: &mut Vec<Step>) {
        let Identity {
            inside_uid: uid,
            inside_gid: gid,
            ..
        } = self.identity;
        let host = self.host_name;
        for (path, content) in [
            (
                "/etc/passwd",
                format!(
                    "agent:x:{uid}:{gid}:agent:{HOME}:/bin/sh\n\
                     nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
                ),
            ),
            ("/etc/group", format!("agent:x:{gid}:\nnogroup:x:65534:\n")),
            (
                "/etc/hosts",
                format!(
                    "127.0.0.1 localhost {host}\n::1 localhost\n{}",
                    if self.listens {
                        format!("{MODEL_ADDRESS} inference.local\n")
                    } else {
                        String::new()
                    }
                ),
            ),
            ("/etc/hostname", format!("{host}\n")),
            (
                "/etc/resolv.conf",
                "# no name servers: names are in /etc/hosts\n".to_owned(),
            ),
            (
                "/etc/nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n"
                    .to_owned(),
            ),
        ] {
            // A policy that grants all of /etc has asked for the host's.
            let granted = self
                .files
                .trees
                .iter()
                .any(|tree| crate::places::is_within(path, tree.place.path()));
            if !granted {
                steps.push(Step::File {
                    path: path.into(),
                    content,
                });
            }
        }
    }

    /// Outer before inner: a mount hides what was mounted below it before.
    fn covers(&self, steps: &mut Vec<Step>) {
        let mut covers: Vec<(&String, &Cover)> = self.files.covers.iter().collect();
        covers.sort_by_key(|(path, _)| (depth(path), (*path).clone()));
        for (path, cover) in covers {
            let path = path.clone();
            steps.push(if cover.masked {
                Step::Mask {
                    path,
                    directory: cover.directory,
                }
            } else {
                let attributes = Attributes {
                    read_only: cover.read_only,
                    no_exec: cover.no_exec,
                    devices: false,
                };
                Step::Rebind { path, attributes }
            });
        }
        for place in &self.places.proc {
            let path = place.path().to_owned();
            steps.push(if PROC_MASKED.contains(&place.path()) {
                Step::Mask {
                    path,
                    directory: place.kind == Kind::Directory,
                }
            } else {
                Step::Rebind {
                    path,
                    attributes: Attributes::SEALED,
                }
            });
        }
    }
}
