//! Binding: a policy with its home and working directory known.

use nemoclaw_common::{FileAccess, RuleId, Verdict};

use crate::builtin;
use crate::diagnostic::{Diagnostic, Diagnostics, Place, quote};
use crate::host::HostPattern;
use crate::index::Index;
use crate::path::SandboxPath;
use crate::pattern::{PathPattern, Tail};
use crate::policy::Policy;
use crate::program::{PATH_DIRECTORIES, Program};
use crate::rule::{ActionWord, List, Rule, Subject};

/// What a policy's text leaves open. Both must be absolute and normal, and should be canonical:
/// the caller has resolved symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bindings<'a> {
    /// The home directory of who starts the agent: what `~` stands for.
    pub home: &'a str,
    /// The working directory: what `${workdir}` stands for.
    pub workdir: &'a str,
}

/// A policy that can answer: every pattern is whole.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundPolicy {
    /// The home directory.
    pub home: SandboxPath,
    /// The working directory.
    pub workdir: SandboxPath,
    /// The host's directory for the record of decisions, when the policy names one.
    pub audit_path: Option<SandboxPath>,
    /// The directories in which bare program names are looked for, in the order of the search.
    pub path_directories: Vec<String>,
    policy: Policy,
    // INVARIANT: `index` was made from `rules`, and points into it.
    pub(crate) rules: Vec<BoundRule>,
    pub(crate) index: Index,
}

/// A rule, of the policy or built in, with its patterns whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BoundRule {
    pub(crate) id: RuleId,
    pub(crate) list: List,
    pub(crate) verdict: Verdict,
    pub(crate) action: Option<ActionWord>,
    pub(crate) subject: BoundSubject,
    pub(crate) text: String,
    pub(crate) reason: Option<String>,
    pub(crate) place: Option<(usize, usize)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BoundSubject {
    Files {
        access: FileAccess,
        pattern: PathPattern,
        private: bool,
    },
    Execute(Program),
    Network(HostPattern),
    External(HostPattern),
    Other,
}

impl Policy {
    /// Fills in the home and working directory.
    ///
    /// # Errors
    ///
    /// When one of them is not absolute and normal, when a pattern becomes longer than the kernel
    /// takes, or when an allowance to write or delete becomes one of everything.
    pub fn bind(&self, bindings: &Bindings<'_>) -> Result<BoundPolicy, Diagnostics> {
        let mut diagnostics = Vec::new();
        let mut directory = |what: &str, text: &str| match SandboxPath::try_from(text) {
            Ok(path) => Some(path),
            Err(error) => {
                diagnostics.push(Diagnostic::error(
                    None,
                    format!("the {what} directory: {error}"),
                ));
                None
            }
        };
        let (home, workdir) = (
            directory("home", bindings.home),
            directory("working", bindings.workdir),
        );
        let (Some(home), Some(workdir)) = (home, workdir) else {
            return Err(Diagnostics(diagnostics));
        };
        let audit_path = match self.audit.path.as_deref() {
            Some(path) => match SandboxPath::try_from(from_home(path, &home)) {
                Ok(path) => Some(path),
                Err(error) => {
                    let message = format!("`audit.path`: {error}");
                    diagnostics.push(Diagnostic::error(None, message));
                    None
                }
            },
            None => None,
        };
        let mut rules = Vec::with_capacity(self.rules.len() + 64);
        for rule in &self.rules {
            match bind_rule(rule, bindings) {
                Ok(rule) => rules.push(rule),
                Err(found) => diagnostics.push(found),
            }
        }
        if !diagnostics.is_empty() {
            return Err(Diagnostics(diagnostics));
        }
        rules.extend(builtin::rules(self, audit_path.as_ref()));
        let set = self.environment.path_directories().map(str::to_owned);
        let mut path_directories: Vec<String> = set.collect();
        for directory in PATH_DIRECTORIES {
            if !path_directories.iter().any(|other| other == directory) {
                path_directories.push(directory.to_owned());
            }
        }
        let index = Index::new(&rules);
        let policy = self.clone();
        Ok(BoundPolicy {
            home,
            workdir,
            audit_path,
            path_directories,
            policy,
            rules,
            index,
        })
    }
}

impl BoundPolicy {
    /// The policy as it was written.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

fn bind_rule(rule: &Rule, bindings: &Bindings<'_>) -> Result<BoundRule, Diagnostic> {
    let at = |place: &Place| Some(place.clone());
    let too_long = |error: crate::path::PathError| {
        Diagnostic::error(at(&rule.place), error.to_string()).hint("shorten it")
    };
    let subject = match &rule.subject {
        Subject::Files { access, pattern } => {
            let bound = pattern.bind(bindings).map_err(too_long)?;
            let changes = access.intersects(FileAccess::WRITE | FileAccess::DELETE);
            let everything =
                bound.anchor.as_str() == "/" && matches!(bound.tail, Tail::This | Tail::Beneath);
            if rule.list == List::Allowed && changes && everything {
                let message = format!(
                    "`{}: {}` allows it everywhere, because it stands for {} here",
                    rule.action.word(),
                    pattern.text(),
                    quote(&bound.text)
                );
                let hint = "start the agent in a directory of its own";
                return Err(Diagnostic::error(at(&rule.place), message).hint(hint));
            }
            BoundSubject::Files {
                access: *access,
                pattern: bound,
                private: false,
            }
        }
        Subject::Execute(program) => {
            BoundSubject::Execute(program.bind(bindings).map_err(too_long)?)
        }
        Subject::Network(pattern) => BoundSubject::Network(pattern.clone()),
        Subject::External(pattern) => BoundSubject::External(pattern.clone()),
        Subject::Other(_) => BoundSubject::Other,
    };
    Ok(BoundRule {
        id: rule.id,
        list: rule.list,
        verdict: rule.list.verdict(),
        action: Some(rule.action),
        subject,
        text: rule.text.clone(),
        reason: rule.reason.clone(),
        place: Some((rule.place.line, rule.place.column)),
    })
}

/// A path that may begin with `~/`, with the home directory filled in.
fn from_home(path: &str, home: &SandboxPath) -> String {
    match path.strip_prefix('~') {
        Some(rest) if home.as_str() == "/" => rest.to_owned(),
        Some(rest) => format!("{home}{rest}"),
        None => path.to_owned(),
    }
}
