//! A host for tests to start from.

use std::collections::BTreeMap;

use nemoclaw_sandbox::cgroup::{Kind, Layout, Owner};
use nemoclaw_sandbox::seccomp::Architecture;

use super::{HostFacts, Mounted, Person, Restrictions, Rlimits, Seccomp};

/// What an ordinary user finds on a current host: everything but privilege and delegated cgroups. Nothing was tried.
pub(crate) fn ordinary_user() -> HostFacts {
    HostFacts {
        kernel: "6.12.0-1-generic".to_owned(),
        architecture: Some(Architecture::X86_64),
        uid: 1000,
        gid: 1000,
        privileged: false,
        initial_user_namespace: true,
        person: Person {
            uid: 1000,
            gid: 1000,
            name: "alice".to_owned(),
            home: "/home/alice".to_owned(),
        },
        landlock_abi: 6,
        seccomp: Seccomp {
            filter: true,
            notify: true,
            wait_killable: true,
        },
        namespaces: ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
            .map(str::to_owned)
            .to_vec(),
        supplementary_groups: false,
        mounts: vec![Mounted {
            at: "/".to_owned(),
            kind: "ext4".to_owned(),
        }],
        owners: BTreeMap::new(),
        restrictions: Restrictions::default(),
        cgroups: Layout {
            kind: Kind::None,
            unified: None,
            legacy: Vec::new(),
            owner: Owner {
                pid: 1,
                start: 1,
                pid_namespace: 1,
            },
            root: false,
        },
        rlimits: Rlimits {
            open_files: 524_288,
            locked_memory: 8 << 20,
            processes: 60_000,
        },
        tried: None,
    }
}

/// The same host for root itself.
pub(crate) fn root() -> HostFacts {
    let person = Person {
        uid: 0,
        gid: 0,
        name: "root".to_owned(),
        home: "/root".to_owned(),
    };
    HostFacts {
        uid: 0,
        gid: 0,
        privileged: true,
        person,
        ..ordinary_user()
    }
}
