//! The Landlock rules: from what is granted, for the highest ABI that the kernel has (landlock(7)).

use nemoclaw_policy::{Compiled, Enforcement, Mechanism};
use nemoclaw_sandbox::plan::{FileRights, LandlockRules, PathRights};

use super::report::{Extent, Lack, Report, RequiredError};
use super::steps;
use super::trees::{self, Files};
use crate::facts::HostFacts;
use crate::places::Kind;

/// What is restricted, and what this kernel cannot.
pub(super) fn landlock(
    compiled: &Compiled,
    enforcement: &Enforcement,
    facts: &HostFacts,
    files: &Files,
    report: &mut Report,
) -> Result<Option<LandlockRules>, RequiredError> {
    let abi = facts.landlock_abi;
    let mut lacks = Vec::new();
    for (needs, what) in [
        (1, "files are held by mounts alone"),
        (2, "files cannot be moved between directories"),
        (3, "truncation is held by mounts alone"),
    ] {
        if abi < needs {
            let have = if abi == 0 {
                "no Landlock".to_owned()
            } else {
                format!("Landlock ABI {abi}")
            };
            lacks.push(Lack::new(
                format!("this kernel offers {have}, not ABI {needs}: {what}"),
                "use Linux 6.2 or newer with `landlock` among the security modules (`lsm=`)",
            ));
            break;
        }
    }
    let extent = match (abi, lacks.is_empty()) {
        (0, _) => Extent::Not,
        (_, false) => Extent::Partly,
        (_, true) => Extent::Fully,
    };
    let mut detail = format!("ABI {abi}, {} paths", files.rights.len());
    if abi >= 6 {
        detail.push_str(", signals and abstract sockets scoped");
    }
    if abi == 0 {
        detail = "none".into();
    }
    report.add(enforcement, Mechanism::Landlock, detail, lacks, extent)?;
    if abi == 0 {
        return Ok(None);
    }
    let handled = FileRights::of_abi(abi);
    let mut rules: Vec<PathRights> = files
        .rights
        .iter()
        .map(|(path, rights)| (path.clone(), *rights))
        .chain(private_rights(compiled))
        .map(|(path, rights)| PathRights {
            path,
            rights: rights & handled,
        })
        .filter(|rule| !rule.rights.is_empty())
        .collect();
    rules.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(LandlockRules {
        abi,
        handled,
        // The network namespace leaves nothing but loopback, where the agent's own
        // servers are its own matter.
        handle_tcp: false,
        connect_ports: Vec::new(),
        scoped: abi >= 6,
        log_denials: abi >= 7,
        rules,
    }))
}

/// Rights on what the sandbox itself makes.
fn private_rights(compiled: &Compiled) -> Vec<(String, FileRights)> {
    let mut private = Vec::new();
    for rule in compiled.grants.iter().filter(|rule| rule.private) {
        let path = rule.pattern.anchor.as_str();
        let directory = steps::is_private_directory(path);
        let kind = if directory {
            Kind::Directory
        } else {
            Kind::File
        };
        let mut rights = trees::rights(rule.access, kind);
        if path.starts_with("/dev/") && path != "/dev/shm" {
            rights |= FileRights::IOCTL_DEVICE;
        }
        private.push((path.to_owned(), rights));
    }
    private
}
