//! The jail of the worker that serves the model socket: the same kind of plan as the agent's, and a stricter one.
//!
//! The worker parses what the agent sends, so it is treated as if the agent had taken it over: it sees its own program,
//! the libraries, the resolver's configuration and the certificates, all read-only; it keeps the host's network, since
//! carrying requests out is its task, and may connect to the upstream's port and to name servers only.

use nemoclaw_sandbox::plan::{
    Attributes, Command, FileRights, Identity, LandlockRules, LaunchPlan, Namespace, PathRights,
    Program, Resource, ResourceLimit, Step,
};
use nemoclaw_sandbox::seccomp::{Profile, RefusalAction};

use super::{PlanError, trees};
use crate::facts::HostFacts;
use crate::places::{Kind, Place, is_within};

/// Where its program stands in its root.
const PROGRAM: &str = "/nemoclaw-egress";
/// Bytes of its root directory: mount points only.
const ROOT_SIZE: u64 = 1 << 20;
/// Connections of the agent, as many upstream, and a few files.
const OPEN_FILES: u64 = 1024;
/// Host ids behind workers that root starts, apart from those of agents ([`super::identity::FIRST_AGENT_ID`]) by more than there
/// are process ids (2^22, proc_sys_kernel(5)).
const FIRST_WORKER_ID: u32 = super::identity::FIRST_AGENT_ID + (1 << 23);
/// TCP port of name servers, for answers that do not fit a datagram (RFC 7766).
const NAME_SERVICE: u16 = 53;

/// What the worker's root holds of the host, where it exists: libraries, names, certificates.
pub(crate) const FILES: [&str; 14] = [
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/usr/share/ca-certificates",
];

/// What a worker is planned from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worker<'a> {
    pub(crate) facts: &'a HostFacts,
    /// The agent's name.
    pub(crate) agent: &'a str,
    /// The program `nemoclaw-egress`.
    pub(crate) program: &'a Place,
    /// Those of [`FILES`] that exist.
    pub(crate) files: &'a [Place],
    /// The dynamic loaders.
    pub(crate) loaders: &'a [Place],
    /// The upstream's TCP port.
    pub(crate) port: u16,
    /// Process id of the supervisor.
    pub(crate) supervisor: u32,
}

impl Worker<'_> {
    /// Plans the worker.
    ///
    /// # Errors
    /// When no system-call filter can be made.
    pub(crate) fn plan(&self) -> Result<LaunchPlan, PlanError> {
        let mut trees: Vec<&Place> = Vec::new();
        for file in self.files {
            if !trees.iter().any(|tree| is_within(file.path(), tree.path())) {
                trees.push(file);
            }
        }
        let identity = self.identity();
        Ok(LaunchPlan {
            name: format!("{}-egress", self.agent),
            cgroup: None,
            identity,
            steps: self.steps(&trees)?,
        })
    }

    fn identity(&self) -> Identity {
        let person = &self.facts.person;
        let own = self.facts.privileged && self.facts.initial_user_namespace;
        let (uid, gid) = if own {
            let id = FIRST_WORKER_ID.saturating_add(self.supervisor);
            (id, id)
        } else {
            (person.uid, person.gid)
        };
        Identity {
            inside_uid: 1,
            inside_gid: 1,
            outside_uid: uid,
            outside_gid: gid,
            drop_groups: self.facts.privileged,
        }
    }

    fn steps(&self, trees: &[&Place]) -> Result<Vec<Step>, PlanError> {
        use Namespace::{Cgroup, Ipc, Mount, Pid, User, Uts};
        let namespaces: Vec<Namespace> = [User, Mount, Pid, Ipc, Uts, Cgroup]
            .into_iter()
            .filter(|namespace| self.facts.has_namespace(*namespace))
            .collect();
        let clones =
            std::iter::once(&self.program)
                .chain(trees)
                .enumerate()
                .map(|(slot, place)| Step::CloneTree {
                    slot,
                    source: place.source.clone(),
                    idmapped: false,
                });
        let mut steps = vec![Step::DieWithSupervisor];
        if self.facts.privileged {
            steps.extend(clones.clone());
        }
        steps.extend([
            Step::Unshare { namespaces },
            Step::AwaitMaps,
            Step::TakeIdentity,
        ]);
        if !self.facts.privileged {
            steps.extend(clones);
        }
        steps.extend([
            Step::BecomeInit,
            Step::NewRoot { size: ROOT_SIZE },
            Step::MountProc,
            Step::PivotRoot,
        ]);
        self.mounts(trees, &mut steps);
        steps.push(Step::SealMount { path: "/".into() });
        steps.extend(
            [
                (Resource::Core, 0),
                (
                    Resource::OpenFiles,
                    OPEN_FILES.min(self.facts.rlimits.open_files),
                ),
            ]
            .map(|(resource, value)| Step::Limit(ResourceLimit { resource, value })),
        );
        steps.extend([Step::DropCapabilities, Step::NoNewPrivileges]);
        steps.extend(self.landlock(trees).map(Step::Landlock));
        steps.push(Step::Execute(self.command()?));
        Ok(steps)
    }

    fn mounts(&self, trees: &[&Place], steps: &mut Vec<Step>) {
        let mut attach = |slot: usize, path: &str, kind: Kind, no_exec: bool| {
            let path = path.to_owned();
            steps.push(match kind {
                Kind::Directory => Step::Directory {
                    path: path.clone(),
                    mode: 0o755,
                },
                _ => Step::Placeholder { path: path.clone() },
            });
            let attributes = Attributes {
                read_only: true,
                no_exec,
                devices: false,
            };
            steps.push(Step::Attach {
                slot,
                path,
                attributes,
            });
        };
        attach(0, PROGRAM, self.program.kind, false);
        for (slot, tree) in (1..).zip(trees) {
            let libraries = tree.kind == Kind::Directory && !tree.path().starts_with("/etc/");
            attach(slot, tree.path(), tree.kind, !libraries);
        }
        let mounted: Vec<&str> = trees.iter().map(|tree| tree.path()).collect();
        let named = self.files.iter().chain(self.loaders).collect();
        for (path, target) in super::trees::links(named, &mounted) {
            steps.push(Step::Symlink { path, target });
        }
    }

    fn landlock(&self, trees: &[&Place]) -> Option<LandlockRules> {
        let abi = self.facts.landlock_abi;
        let handled = FileRights::of_abi(abi);
        let mut rules = vec![PathRights {
            path: PROGRAM.to_owned(),
            rights: FileRights::EXECUTE | FileRights::READ & FileRights::FOR_FILES,
        }];
        rules.extend(trees.iter().map(|tree| PathRights {
            path: tree.path().to_owned(),
            rights: trees::rights(nemoclaw_policy::FileAccess::READ, tree.kind),
        }));
        rules.extend(self.loaders.iter().map(|loader| PathRights {
            path: loader.path().to_owned(),
            rights: FileRights::EXECUTE,
        }));
        (abi > 0).then(|| LandlockRules {
            abi,
            handled,
            handle_tcp: abi >= 4,
            connect_ports: if abi >= 4 {
                vec![self.port, NAME_SERVICE]
            } else {
                Vec::new()
            },
            scoped: abi >= 6,
            log_denials: abi >= 7,
            rules,
        })
    }

    fn command(&self) -> Result<Command, PlanError> {
        let filter = match self.facts.architecture {
            None => return Err(PlanError::Architecture),
            Some(_) if !self.facts.seccomp.filter => None,
            // Nobody reads what a worker is refused: its own messages say what it could not do.
            Some(architecture) => {
                Some(Profile::parse(Profile::EGRESS)?.compile(architecture, RefusalAction::Errno)?)
            }
        };
        Ok(Command {
            program: Program::Path(PROGRAM.to_owned()),
            arguments: vec!["nemoclaw-egress".to_owned()],
            environment: Vec::new(),
            directory: "/".to_owned(),
            terminal: [false; 3],
            filter,
        })
    }
}
