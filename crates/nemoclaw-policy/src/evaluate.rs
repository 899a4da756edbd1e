//! Evaluating: what a policy says of one action, and why.

use std::fmt;

use nemoclaw_common::{FileAccess, RuleId, Verdict};
use serde::Serialize;

use crate::action::Action;
use crate::bind::{BoundPolicy, BoundRule, BoundSubject};
use crate::diagnostic::quote;
use crate::edit::addition;
use crate::host::{DEFAULT_PORTS, Host, HostPattern};
use crate::path::SandboxPath;
use crate::program::Program;
use crate::rule::{ActionWord, List};

/// What a policy says of one action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether the action goes ahead.
    #[serde(serialize_with = "crate::serialize::verdict")]
    pub verdict: Verdict,
    /// The rule that decides; `None` for the default denial.
    pub rule: Option<RuleRef>,
    /// The other rules that speak of the action, the strongest first.
    pub runners_up: Vec<RuleRef>,
    /// Why, in one sentence.
    pub reason: String,
}

/// A rule, as reports name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleRef {
    /// Its number.
    #[serde(serialize_with = "crate::serialize::rule")]
    pub id: RuleId,
    /// The list that it stands in.
    pub list: List,
    /// What it says.
    #[serde(serialize_with = "crate::serialize::verdict")]
    pub verdict: Verdict,
    /// The action word that it stands under; `None` for a built-in rule.
    pub action: Option<ActionWord>,
    /// The line of the policy, counted from 1; `None` for a built-in rule.
    pub line: Option<usize>,
    /// The column, counted from 1; `None` for a built-in rule.
    pub column: Option<usize>,
    /// The rule as it was written, after its action word.
    pub text: String,
    /// Why, in the words of the policy's author.
    pub reason: Option<String>,
}

impl BoundPolicy {
    /// What the policy says of an action, with the deciding rule and the runners-up.
    #[must_use]
    pub fn evaluate(&self, action: &Action) -> Decision {
        let mut found = Vec::new();
        self.matching(action, |position| found.push(position));
        found.sort_by_key(|position| self.rank(*position));
        found.dedup();
        let rules: Vec<&BoundRule> = found
            .iter()
            .rev()
            .filter_map(|position| self.rules.get(*position))
            .collect();
        match rules.split_first() {
            Some((rule, others)) => Decision {
                verdict: rule.verdict,
                rule: Some(rule.reference()),
                runners_up: others.iter().map(|rule| rule.reference()).collect(),
                reason: rule.sentence(),
            },
            None => Decision {
                verdict: Verdict::Deny,
                rule: None,
                runners_up: Vec::new(),
                reason: self.silence(action),
            },
        }
    }

    /// As [`BoundPolicy::evaluate`], without the reasons: for callers in a hurry.
    #[must_use]
    pub fn verdict(&self, action: &Action) -> (Verdict, RuleId) {
        let mut best = None;
        self.matching(action, |position| {
            let rank = self.rank(position);
            if best.as_ref().is_none_or(|(other, _)| rank > *other) {
                best = Some((rank, position));
            }
        });
        match best.and_then(|(_, position)| self.rules.get(position)) {
            Some(rule) => (rule.verdict, rule.id),
            None => (Verdict::Deny, RuleId::NONE),
        }
    }

    /// The rule with this number, as reports name it.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<RuleRef> {
        self.rules
            .iter()
            .find(|rule| rule.id == id)
            .map(BoundRule::reference)
    }

    /// Every rule of the policy and every built-in one, as reports name them.
    pub fn rules(&self) -> impl Iterator<Item = RuleRef> {
        self.rules.iter().map(BoundRule::reference)
    }

    /// Calls `visit` with the position of every rule that speaks of the action, some more than
    /// once.
    fn matching(&self, action: &Action, mut visit: impl FnMut(usize)) {
        match action {
            Action::Read(path) => self.matching_files(FileAccess::READ, path, visit),
            Action::Write(path) => self.matching_files(FileAccess::WRITE, path, visit),
            Action::Delete(path) => self.matching_files(FileAccess::DELETE, path, visit),
            Action::Execute(path) => {
                self.matching_files(FileAccess::EXECUTE, path, &mut visit);
                self.matching_programs(path, visit);
            }
            Action::Connect { host, port } => self.matching_hosts(host, *port, visit),
        }
    }

    fn matching_files(&self, wanted: FileAccess, path: &SandboxPath, mut visit: impl FnMut(usize)) {
        let parts: Vec<&str> = path.components().collect();
        self.index.files(&parts, |position| {
            let Some(rule) = self.rules.get(position) else {
                return;
            };
            let BoundSubject::Files {
                access, pattern, ..
            } = &rule.subject
            else {
                return;
            };
            if access.intersects(wanted)
                && match rule.verdict {
                    Verdict::Deny | Verdict::Ask => pattern.covers_components(&parts),
                    Verdict::Allow if wanted == FileAccess::READ => {
                        pattern.matches_components(&parts)
                    }
                    Verdict::Allow => pattern.matches_content(&parts),
                }
            {
                visit(position);
            }
        });
    }

    fn matching_programs(&self, path: &SandboxPath, mut visit: impl FnMut(usize)) {
        let parts: Vec<&str> = path.components().collect();
        self.index.programs(&parts, |position| {
            let Some(rule) = self.rules.get(position) else {
                return;
            };
            let speaks = match &rule.subject {
                BoundSubject::Execute(Program::Name(name)) => {
                    path.file_name() == Some(name)
                        && (rule.verdict != Verdict::Allow || self.is_on_path(path))
                }
                BoundSubject::Execute(Program::Path(pattern)) => match rule.verdict {
                    Verdict::Deny | Verdict::Ask => pattern.covers_components(&parts),
                    Verdict::Allow => pattern.matches_content(&parts),
                },
                _ => false,
            };
            if speaks {
                visit(position);
            }
        });
    }

    fn is_on_path(&self, path: &SandboxPath) -> bool {
        let parent = path
            .as_str()
            .rsplit_once('/')
            .map_or("", |(parent, _)| parent);
        let parent = if parent.is_empty() { "/" } else { parent };
        self.path_directories
            .iter()
            .any(|directory| directory == parent)
    }

    fn matching_hosts(&self, host: &str, port: u16, mut visit: impl FnMut(usize)) {
        let host = match Host::parse(host) {
            Ok(host) => host,
            // No allowance names it; a denial of every host still does.
            Err(_) => Host::Name(String::new()),
        };
        let mut named = false;
        self.index.network(&host, |position| {
            let Some(rule) = self.rules.get(position) else {
                return;
            };
            let BoundSubject::Network(pattern) = &rule.subject else {
                return;
            };
            if speaks_of(rule, pattern, &host, port) {
                named = true;
                visit(position);
            }
        });
        if named {
            return;
        }
        self.index.external(&host, |position| {
            let Some(rule) = self.rules.get(position) else {
                return;
            };
            let BoundSubject::External(pattern) = &rule.subject else {
                return;
            };
            if speaks_of(rule, pattern, &host, port) {
                visit(position);
            }
        });
    }

    /// The greater of two decides.
    fn rank(&self, position: usize) -> (Verdict, (usize, usize, usize), bool, usize) {
        let Some(rule) = self.rules.get(position) else {
            return (Verdict::Allow, (0, 0, 0), false, 0);
        };
        let specificity = match &rule.subject {
            BoundSubject::Files { pattern, .. } => pattern.specificity(),
            BoundSubject::Execute(Program::Path(pattern)) => pattern.specificity(),
            BoundSubject::Execute(Program::Name(name)) => (0, 1, name.len()),
            BoundSubject::Network(pattern) | BoundSubject::External(pattern) => {
                pattern.specificity()
            }
            BoundSubject::Execute(Program::Digest(_)) | BoundSubject::Other => (0, 0, 0),
        };
        let written = rule.list != List::BuiltIn;
        (rule.verdict, specificity, written, usize::MAX - position)
    }

    /// Why an action of which no rule speaks is denied, and what would allow it.
    fn silence(&self, action: &Action) -> String {
        let remedy = match addition(action) {
            Ok(edit) => format!("no rule allows it; {edit} would"),
            Err(why) => format!("no rule allows it, and none can: {why}"),
        };
        let digests = matches!(action, Action::Execute(_))
            && self
                .rules
                .iter()
                .any(|rule| matches!(rule.subject, BoundSubject::Execute(Program::Digest(_))));
        let note = if digests {
            "; rules by digest allow nothing in this version"
        } else {
            ""
        };
        format!("{remedy}{note}")
    }
}

/// Whether a network rule speaks of a destination.
fn speaks_of(rule: &BoundRule, pattern: &HostPattern, host: &Host, port: u16) -> bool {
    match rule.verdict {
        Verdict::Deny => pattern.port.is_none_or(|wanted| wanted == port) && pattern.names(host),
        Verdict::Ask | Verdict::Allow => {
            let named = match pattern.port {
                Some(wanted) => wanted == port,
                None => DEFAULT_PORTS.contains(&port),
            };
            named && pattern.grants(host)
        }
    }
}

impl BoundRule {
    pub(crate) fn reference(&self) -> RuleRef {
        RuleRef {
            id: self.id,
            list: self.list,
            verdict: self.verdict,
            action: self.action,
            line: self.place.map(|(line, _)| line),
            column: self.place.map(|(_, column)| column),
            text: self.text.clone(),
            reason: self.reason.clone(),
        }
    }

    fn sentence(&self) -> String {
        let verb = match self.verdict {
            Verdict::Allow => "allowed",
            Verdict::Ask => "held for approval",
            Verdict::Deny => "denied",
        };
        let reference = self.reference();
        match &self.reason {
            Some(reason) => format!("{verb} by {reference}: {reason}"),
            None => format!("{verb} by {reference}"),
        }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.action {
            Some(action) => quote(&format!("{}: {}", action.word(), self.text)),
            None => quote(&self.text),
        };
        match self.line {
            Some(line) => write!(f, "{rule} (under `{}`, line {line})", self.list.section()),
            None => write!(f, "{rule} (a built-in rule)"),
        }
    }
}
