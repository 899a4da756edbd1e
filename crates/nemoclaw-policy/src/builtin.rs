//! Rules that hold for every policy: what a program needs to start at all, what the sandbox has
//! of its own, and what no policy can give.

use nemoclaw_common::{FileAccess, RuleId, Verdict};

use crate::MODEL_HOST;
use crate::bind::{BoundRule, BoundSubject};
use crate::host::{HostMatch, HostPattern};
use crate::path::SandboxPath;
use crate::pattern::PathPattern;
use crate::policy::Policy;
use crate::rule::{ActionWord, List};

const READ: FileAccess = FileAccess::READ;
const READ_WRITE: FileAccess = FileAccess::READ.union(FileAccess::WRITE);
const CHANGE: FileAccess = FileAccess::WRITE.union(FileAccess::DELETE);

const RUNTIME: &str = "programs need the system's libraries and tables to start";
const PRIVATE: &str = "the sandbox has its own, which nobody else sees";
const KERNEL: &str = "settings of the kernel concern the whole machine";

/// What a program needs to start, from the host.
const RUNTIME_TREES: [&str; 13] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/bin",
    "/sbin",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/terminfo",
];

const RUNTIME_FILES: [&str; 9] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ssl/openssl.cnf",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/protocols",
    "/etc/services",
    "/etc/os-release",
    "/etc/timezone",
];

/// What the sandbox has of its own.
const PRIVATE_TREES: [(&str, FileAccess); 4] = [
    ("/tmp", READ_WRITE.union(FileAccess::DELETE)),
    ("/dev/shm", READ_WRITE.union(FileAccess::DELETE)),
    ("/dev/pts", READ_WRITE),
    ("/proc", READ),
];

const PRIVATE_FILES: [(&str, FileAccess); 12] = [
    ("/dev/null", READ_WRITE),
    ("/dev/zero", READ_WRITE),
    ("/dev/full", READ_WRITE),
    ("/dev/random", READ_WRITE),
    ("/dev/urandom", READ_WRITE),
    ("/dev/tty", READ_WRITE),
    ("/etc/passwd", READ),
    ("/etc/group", READ),
    ("/etc/hosts", READ),
    ("/etc/resolv.conf", READ),
    ("/etc/nsswitch.conf", READ),
    ("/etc/hostname", READ),
];

/// Where nothing is ever changed, whatever the policy says.
const KERNEL_TREES: [&str; 6] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
    "/sys",
];

/// The built-in rules that hold beside a policy.
pub(crate) fn rules(policy: &Policy, audit_path: Option<&SandboxPath>) -> Vec<BoundRule> {
    let mut rules = Rules(Vec::new());
    for tree in KERNEL_TREES {
        rules.files(Verdict::Deny, tree, true, CHANGE, true, KERNEL);
    }
    if let Some(path) = audit_path {
        let reason = "no agent reaches the record of what it did";
        rules.files(
            Verdict::Deny,
            path.as_str(),
            true,
            FileAccess::ALL,
            false,
            reason,
        );
    }
    let executes = policy.rules.iter().any(|rule| {
        rule.action == ActionWord::ExecuteCode
            && matches!(rule.list, List::Allowed | List::Approval)
    });
    if executes {
        for tree in RUNTIME_TREES {
            rules.files(Verdict::Allow, tree, true, READ, false, RUNTIME);
        }
        for file in RUNTIME_FILES {
            rules.files(Verdict::Allow, file, false, READ, false, RUNTIME);
        }
    }
    for (tree, access) in PRIVATE_TREES {
        rules.files(Verdict::Allow, tree, true, access, true, PRIVATE);
    }
    for (file, access) in PRIVATE_FILES {
        rules.files(Verdict::Allow, file, false, access, true, PRIVATE);
    }
    if policy.models.upstream.is_some() {
        let pattern = HostPattern {
            host: HostMatch::Name(MODEL_HOST.to_owned()),
            port: Some(80),
            text: format!("{MODEL_HOST}:80"),
        };
        let text = pattern.text.clone();
        let reason = "the model answers there, through the sandbox's own listener";
        rules.add(Verdict::Allow, BoundSubject::Network(pattern), text, reason);
    }
    rules.0
}

struct Rules(Vec<BoundRule>);

impl Rules {
    fn files(
        &mut self,
        verdict: Verdict,
        path: &str,
        tree: bool,
        access: FileAccess,
        private: bool,
        reason: &str,
    ) {
        // Every constant above is absolute and normal, which a test holds.
        let Ok(path) = SandboxPath::try_from(path) else {
            return;
        };
        let pattern = if tree {
            PathPattern::beneath(path)
        } else {
            PathPattern::this(path)
        };
        let text = format!("{access}: {pattern}");
        self.add(
            verdict,
            BoundSubject::Files {
                access,
                pattern,
                private,
            },
            text,
            reason,
        );
    }

    fn add(&mut self, verdict: Verdict, subject: BoundSubject, text: String, reason: &str) {
        let number = u32::try_from(self.0.len()).unwrap_or(0);
        self.0.push(BoundRule {
            id: RuleId(RuleId::FIRST_BUILT_IN.0 + number),
            list: List::BuiltIn,
            verdict,
            action: None,
            subject,
            text,
            reason: Some(reason.to_owned()),
            place: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_path_is_absolute_and_normal() {
        let trees = RUNTIME_TREES
            .into_iter()
            .chain(RUNTIME_FILES)
            .chain(KERNEL_TREES);
        let private = PRIVATE_TREES
            .into_iter()
            .chain(PRIVATE_FILES)
            .map(|(path, _)| path);
        for path in trees.chain(private) {
            assert!(SandboxPath::try_from(path).is_ok(), "{path}");
        }
    }
}
