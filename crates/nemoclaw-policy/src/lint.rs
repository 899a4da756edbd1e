//! Warnings: what a policy says that its author probably did not mean.

use std::collections::HashMap;

use nemoclaw_common::Verdict;

use crate::bind::{Bindings, BoundSubject};
use crate::diagnostic::{Diagnostic, Place};
use crate::glob::{self, Component};
use crate::host::HostMatch;
use crate::index::{Hosts, Patterns};
use crate::pattern::{PathPattern, Tail};
use crate::policy::Policy;
use crate::program::{PATH_DIRECTORIES, Program};
use crate::rule::{ActionWord, List, Rule, Subject};

/// Stand-ins for directories that are not known yet. No pattern can name them, because `{` and `}`
/// have no place in one.
const STAND_INS: Bindings<'static> = Bindings {
    home: "/{home}",
    workdir: "/{workdir}",
};

/// As [`STAND_INS`], for what is likely and not only for what is certain: most homes are there.
const USUAL: Bindings<'static> = Bindings {
    home: "/home/{user}",
    workdir: "/{workdir}",
};

/// Where people keep what nobody else may read.
const SECRETS: [&str; 17] = [
    "~/.ssh",
    "~/.aws",
    "~/.gnupg",
    "~/.azure",
    "~/.config/gcloud",
    "~/.config/gh",
    "~/.kube",
    "~/.docker/config.json",
    "~/.netrc",
    "~/.npmrc",
    "~/.pypirc",
    "~/.git-credentials",
    "~/.cargo/credentials.toml",
    "~/.password-store",
    "~/.bash_history",
    "/etc/shadow",
    "/root/.ssh",
];

/// How much comparing of rules one policy is worth, in steps of about ten nanoseconds. Comparing
/// all pairs of very many rules would take minutes.
const MOST_STEPS: usize = 20_000_000;

/// One rule with its pattern made whole by stand-ins.
struct Item<'p> {
    rule: &'p Rule,
    subject: BoundSubject,
    /// What an allowance allows, and everything that a denial or an approval withholds; empty
    /// where there is no pattern of paths.
    paths: Vec<Component>,
}

impl<'p> Item<'p> {
    fn new(rule: &'p Rule, subject: BoundSubject) -> Self {
        let mut paths = match &subject {
            BoundSubject::Files { pattern, .. } | BoundSubject::Execute(Program::Path(pattern)) => {
                pattern.all_components()
            }
            _ => Vec::new(),
        };
        let whole = paths.last() == Some(&Component::AnyDepth);
        if rule.list == List::Allowed {
            // The directory before a trailing `/*` may be read, but not changed.
            if whole && rule.action != ActionWord::ReadFiles {
                paths.insert(paths.len() - 1, Component::Glob("*".to_owned()));
            }
        } else if !whole && !paths.is_empty() {
            paths.push(Component::AnyDepth);
        }
        Self {
            rule,
            subject,
            paths,
        }
    }
}

impl Item<'_> {
    /// What a rule names that is no path and no host; `None` for everything.
    fn word(&self) -> Option<&str> {
        match (&self.subject, &self.rule.subject) {
            (BoundSubject::Execute(Program::Name(name)), _) => Some(name),
            (_, Subject::Other(word)) => word.as_deref(),
            _ => Some(&self.rule.text),
        }
    }
}

/// What is left of [`MOST_STEPS`].
struct Budget(usize);

impl Budget {
    /// Whether two patterns can still be compared.
    fn spend(&mut self, left: &[Component], right: &[Component]) -> bool {
        let steps = (left.len() + 1) * (right.len() + 1) + 8;
        let enough = self.0 >= steps;
        self.0 = self.0.saturating_sub(steps);
        enough
    }

    fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// Everything doubtful about a policy that has no errors.
pub(crate) fn warnings(policy: &Policy) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut budget = Budget(MOST_STEPS);
    overruled(&items(policy, &STAND_INS), &mut budget, &mut found);
    let items = items(policy, &USUAL);
    pointless_denial(&items, &mut found);
    writable_programs(policy, &items, &mut budget, &mut found);
    readable_secrets(&items, &mut budget, &mut found);
    not_enforced(&items, &mut found);
    if budget.is_spent() {
        let message = "the rules are so many that not all were compared with each other";
        let hint = "doubtful rules may have been missed; join rules with `*`";
        found.push(Diagnostic::warning(None, message).hint(hint));
    }
    found
}

fn items<'p>(policy: &'p Policy, bindings: &Bindings<'_>) -> Vec<Item<'p>> {
    policy
        .rules
        .iter()
        .filter_map(|rule| {
            let subject = match &rule.subject {
                Subject::Files { access, pattern } => BoundSubject::Files {
                    access: *access,
                    pattern: pattern.bind(bindings).ok()?,
                    private: false,
                },
                Subject::Execute(program) => BoundSubject::Execute(program.bind(bindings).ok()?),
                Subject::Network(pattern) => BoundSubject::Network(pattern.clone()),
                Subject::External(pattern) => BoundSubject::External(pattern.clone()),
                Subject::Other(_) => BoundSubject::Other,
            };
            Some(Item::new(rule, subject))
        })
        .collect()
}

fn warn(place: &Place, message: String, hint: &str) -> Diagnostic {
    Diagnostic::warning(Some(place.clone()), message).hint(hint)
}

/// Rules that another rule leaves nothing to decide.
fn overruled(items: &[Item<'_>], budget: &mut Budget, found: &mut Vec<Diagnostic>) {
    let mut files = Patterns::default();
    let mut hosts = Hosts::default();
    let mut words: HashMap<Option<&str>, Vec<usize>> = HashMap::new();
    for (position, item) in items.iter().enumerate() {
        match &item.subject {
            BoundSubject::Files { pattern, .. } | BoundSubject::Execute(Program::Path(pattern)) => {
                files.add(pattern, position)
            }
            BoundSubject::Network(pattern) | BoundSubject::External(pattern) => {
                hosts.add(pattern, position);
            }
            BoundSubject::Execute(_) | BoundSubject::Other => {
                words.entry(item.word()).or_default().push(position);
            }
        }
    }
    for (position, item) in items.iter().enumerate() {
        if budget.is_spent() {
            return;
        }
        let mut best: Option<&Item<'_>> = None;
        let mut consider = |candidate: usize| {
            let Some(other) = items.get(candidate) else {
                return;
            };
            let stronger = other.rule.list.verdict() > item.rule.list.verdict();
            let equal = other.rule.list == item.rule.list;
            let may = candidate != position
                && (stronger || equal)
                && other.rule.action == item.rule.action
                && budget.spend(&other.paths, &item.paths);
            if !may || !includes(other, item) {
                return;
            }
            // Of two that say the same, the second is the one to complain of.
            if equal && includes(item, other) && candidate > position {
                return;
            }
            let verdict = |item: &Item<'_>| item.rule.list.verdict();
            if best.is_none_or(|best| verdict(other) > verdict(best)) {
                best = Some(other);
            }
        };
        match &item.subject {
            BoundSubject::Files { pattern, .. } | BoundSubject::Execute(Program::Path(pattern)) => {
                let mut path: Vec<&str> = pattern.anchor.components().collect();
                path.extend(pattern.literal_name());
                files.visit(&path, &mut consider);
            }
            BoundSubject::Network(pattern) | BoundSubject::External(pattern) => {
                hosts.visit_wider(pattern, &mut consider);
            }
            BoundSubject::Execute(_) | BoundSubject::Other => {
                let mut keys = vec![item.word()];
                keys.extend(item.word().map(|_| None));
                for key in keys {
                    let others = words.get(&key).into_iter().flatten();
                    others.copied().for_each(&mut consider);
                }
            }
        }
        let Some(other) = best else { continue };
        let line = other.rule.place.line;
        let text = crate::diagnostic::quote(&format!(
            "{}: {}",
            other.rule.action.word(),
            other.rule.text
        ));
        let (message, hint) = if other.rule.list == item.rule.list {
            (
                format!("this says nothing new: {text} on line {line} says it already"),
                "remove the narrower of the two",
            )
        } else if other.rule.list.verdict() == Verdict::Deny {
            (
                format!("this never happens: {text} on line {line} denies all of it"),
                "remove one of the two; a denial beats every other rule",
            )
        } else {
            (
                format!("this is never allowed at once: {text} on line {line} asks for all of it"),
                "remove one of the two; an approval beats an allowance",
            )
        };
        found.push(warn(&item.rule.place, message, hint));
    }
}

fn pattern_of<'i>(item: &'i Item<'_>) -> Option<&'i PathPattern> {
    match &item.subject {
        BoundSubject::Files { pattern, .. } | BoundSubject::Execute(Program::Path(pattern)) => {
            Some(pattern)
        }
        _ => None,
    }
}

/// Whether `wide` speaks of everything that `narrow` speaks of. `true` is always right.
fn includes(wide: &Item<'_>, narrow: &Item<'_>) -> bool {
    if wide.rule.action != narrow.rule.action {
        return false;
    }
    match (&wide.subject, &narrow.subject) {
        (
            BoundSubject::Execute(Program::Name(left)),
            BoundSubject::Execute(Program::Name(right)),
        ) => left == right,
        (BoundSubject::Network(left), BoundSubject::Network(right))
        | (BoundSubject::External(left), BoundSubject::External(right)) => {
            // An allowance of every host leaves out what is not public.
            let any = left.is_wide() && !right.is_wide();
            let every_port = wide.rule.list == List::Denied && left.port.is_none();
            if every_port {
                left.includes_host(right)
            } else if wide.rule.list == List::Denied || !any || is_name(&right.host) {
                left.includes(right)
            } else {
                false
            }
        }
        (BoundSubject::Other, BoundSubject::Other) => {
            match (&wide.rule.subject, &narrow.rule.subject) {
                (Subject::Other(None), Subject::Other(_)) => true,
                (Subject::Other(left), Subject::Other(right)) => left == right,
                _ => false,
            }
        }
        _ => {
            let both = pattern_of(wide).is_some() && pattern_of(narrow).is_some();
            both && glob::includes(&wide.paths, &narrow.paths)
        }
    }
}

fn is_name(host: &HostMatch) -> bool {
    matches!(host, HostMatch::Name(_) | HostMatch::Subdomains(_))
}

/// Withholding what no other rule names is pointless where another rule names everything.
fn pointless_denial(items: &[Item<'_>], found: &mut Vec<Diagnostic>) {
    let everything = items.iter().find(|item| {
        item.rule.list == List::Allowed
            && matches!(&item.subject, BoundSubject::Network(pattern) if pattern.host == HostMatch::Any && pattern.port.is_none())
    });
    let Some(everything) = everything else { return };
    for item in items {
        if item.rule.list != List::Allowed && matches!(item.subject, BoundSubject::External(_)) {
            let message = format!(
                "this withholds no web page: {} on line {} names every public host first",
                crate::diagnostic::quote(&format!("network_access: {}", everything.rule.text)),
                everything.rule.place.line
            );
            let hint = "name the hosts that are meant; `external_network` speaks of those that no `network_access` rule names";
            found.push(warn(&item.rule.place, message, hint));
        }
    }
}

/// What can be written and then executed is code that no policy has seen.
fn writable_programs(
    policy: &Policy,
    items: &[Item<'_>],
    budget: &mut Budget,
    found: &mut Vec<Diagnostic>,
) {
    let mut programs: Vec<(Vec<Component>, &Rule)> = Vec::new();
    let mut by_name: Option<&Rule> = None;
    for item in items.iter().filter(|item| item.rule.list == List::Allowed) {
        match &item.subject {
            BoundSubject::Execute(Program::Path(_)) => {
                programs.push((item.paths.clone(), item.rule));
            }
            BoundSubject::Execute(Program::Name(_)) if by_name.is_none() => {
                by_name = Some(item.rule);
            }
            _ => {}
        }
    }
    if let Some(rule) = by_name {
        let set = policy.environment.path_directories();
        for directory in PATH_DIRECTORIES.into_iter().chain(set) {
            if let Ok(path) = crate::path::SandboxPath::try_from(directory) {
                programs.push((PathPattern::beneath(path).all_components(), rule));
            }
        }
    }
    for item in items.iter().filter(|item| item.rule.list == List::Allowed) {
        if item.rule.action != ActionWord::WriteFiles {
            continue;
        }
        if let Some((_, rule)) = programs.iter().find(|(parts, _)| {
            budget.spend(parts, &item.paths) && glob::overlaps(parts, &item.paths)
        }) {
            let message = format!(
                "what the agent writes here it may also execute, by {} on line {}",
                crate::diagnostic::quote(&format!("execute_code: {}", rule.text)),
                rule.place.line
            );
            let hint = "keep programs and the agent's own files in different trees";
            found.push(warn(&item.rule.place, message, hint));
        }
    }
}

/// A secret that can be read and a network that is open are together a way out.
fn readable_secrets(items: &[Item<'_>], budget: &mut Budget, found: &mut Vec<Diagnostic>) {
    let open = items.iter().find(|item| {
        item.rule.list != List::Denied
            && match &item.subject {
                BoundSubject::External(_) => true,
                BoundSubject::Network(pattern) => {
                    pattern.is_wide() || matches!(pattern.host, HostMatch::Subdomains(_))
                }
                _ => false,
            }
    });
    let Some(open) = open else { return };
    let denials: Vec<&Item<'_>> = items
        .iter()
        .filter(|item| item.rule.list == List::Denied && item.rule.action == ActionWord::ReadFiles)
        .collect();
    let mut secrets: Vec<(&str, Vec<Component>)> = Vec::new();
    for text in SECRETS {
        let path = text.replacen('~', USUAL.home, 1);
        let Ok(path) = crate::path::SandboxPath::try_from(path) else {
            continue;
        };
        let secret = PathPattern::beneath(path).all_components();
        let denied = denials
            .iter()
            .any(|item| budget.spend(&item.paths, &secret) && glob::includes(&item.paths, &secret));
        if !denied {
            secrets.push((text, secret));
        }
    }
    for item in items {
        if item.rule.list == List::Denied || item.rule.action != ActionWord::ReadFiles {
            continue;
        }
        let reached: Vec<&str> = secrets
            .iter()
            .filter(|(_, secret)| {
                budget.spend(&item.paths, secret) && glob::overlaps(&item.paths, secret)
            })
            .map(|(text, _)| *text)
            .take(3)
            .collect();
        if reached.is_empty() {
            continue;
        }
        let message = format!(
            "the agent may read {} here and send it out, by {} on line {}",
            crate::reader::listed(&reached),
            crate::diagnostic::quote(&format!("{}: {}", open.rule.action.word(), open.rule.text)),
            open.rule.place.line
        );
        let hint = "deny reading the secrets, or name the hosts that are meant";
        found.push(warn(&item.rule.place, message, hint));
    }
}

/// Words that this version understands but nothing carries out yet.
fn not_enforced(items: &[Item<'_>], found: &mut Vec<Diagnostic>) {
    let mut told = Vec::new();
    for item in items {
        match &item.subject {
            BoundSubject::Files { pattern, .. }
                if item.rule.list == List::Allowed && pattern.tail == Tail::Name =>
            {
                let message = "a bare file name can only be withheld: this version mounts trees, and does not look for names to allow";
                let hint = format!("write where, such as `${{workdir}}/**/{}`", item.rule.text);
                found.push(warn(&item.rule.place, message.to_owned(), &hint));
            }
            BoundSubject::Execute(Program::Digest(_)) => {
                let message = "this version does not look at the digests of programs: the rule neither allows nor withholds any";
                let hint = "name the program by its path";
                found.push(warn(&item.rule.place, message.to_owned(), hint));
            }
            _ => {}
        }
        let (list, action) = (item.rule.list, item.rule.action);
        let message = match (list, action) {
            (
                List::Allowed | List::Approval,
                ActionWord::NetworkAccess | ActionWord::ExternalNetwork,
            ) => {
                "this version gives the agent no network besides its model, so this destination cannot be reached yet"
            }
            (List::Allowed | List::Approval, ActionWord::UseGpu) => {
                "this version gives the agent no GPU"
            }
            (List::Allowed | List::Approval, ActionWord::SendMessages) => {
                "this version carries no messages between agents"
            }
            (List::Denied | List::Approval, ActionWord::UseTools | ActionWord::UseModels) => {
                "this version does not look into model requests, so nothing enforces this yet"
            }
            (List::Denied | List::Approval, ActionWord::DeployCode | ActionWord::InstallSkills) => {
                "this version knows no such action by itself; only the rules about files, programs and hosts are enforced"
            }
            _ => continue,
        };
        if !told.contains(&(list, action)) {
            told.push((list, action));
            let hint =
                "the rule is kept and checked; see the policy reference for what enforces it";
            let word = action.word();
            found.push(warn(&item.rule.place, format!("`{word}`: {message}"), hint));
        }
    }
}
