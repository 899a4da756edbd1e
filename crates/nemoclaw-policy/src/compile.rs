//! Compiling: the rules as the planner lays them out for mounts, Landlock and kernel maps.

use nemoclaw_common::{FileAccess, RuleId, Verdict};
use serde::Serialize;

use crate::bind::{BoundPolicy, BoundSubject};
use crate::pattern::PathPattern;
use crate::program::Program;

/// One rule about files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathRule {
    /// The rule that it comes from.
    #[serde(serialize_with = "crate::serialize::rule")]
    pub rule: RuleId,
    /// What is granted, denied or held; execution is in [`Compiled::programs`].
    #[serde(serialize_with = "crate::serialize::access")]
    pub access: FileAccess,
    /// Of which paths.
    pub pattern: PathPattern,
    /// Whether the sandbox makes the path itself, so that nothing of the host is mounted.
    pub private: bool,
}

/// One rule about programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramRule {
    /// The rule that it comes from.
    #[serde(serialize_with = "crate::serialize::rule")]
    pub rule: RuleId,
    /// Which programs.
    pub program: Program,
    /// What the rule says of executing them.
    #[serde(serialize_with = "crate::serialize::verdict")]
    pub verdict: Verdict,
}

/// A policy's rules about files and programs, sorted by what they say.
///
/// A path is granted an access when a grant matches it ([`PathPattern::matches`]; before a
/// trailing `/*`, the directory itself may be read but not changed) and no denial or hold covers
/// it ([`PathPattern::covers`]).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Compiled {
    /// What is allowed, the built-in rules included.
    pub grants: Vec<PathRule>,
    /// What is denied, with everything beneath it; the built-in guards included.
    pub denials: Vec<PathRule>,
    /// What waits for approval, with everything beneath it.
    pub holds: Vec<PathRule>,
    /// What is said about executing programs.
    pub programs: Vec<ProgramRule>,
}

impl BoundPolicy {
    /// The rules about files and programs.
    #[must_use]
    pub fn compile(&self) -> Compiled {
        let mut compiled = Compiled::default();
        for rule in &self.rules {
            match &rule.subject {
                BoundSubject::Files {
                    access,
                    pattern,
                    private,
                } => {
                    let list = match rule.verdict {
                        Verdict::Allow => &mut compiled.grants,
                        Verdict::Ask => &mut compiled.holds,
                        Verdict::Deny => &mut compiled.denials,
                    };
                    list.push(PathRule {
                        rule: rule.id,
                        access: *access,
                        pattern: pattern.clone(),
                        private: *private,
                    });
                }
                BoundSubject::Execute(program) => compiled.programs.push(ProgramRule {
                    rule: rule.id,
                    program: program.clone(),
                    verdict: rule.verdict,
                }),
                BoundSubject::Network(_) | BoundSubject::External(_) | BoundSubject::Other => {}
            }
        }
        compiled
    }
}
