//! Warnings: what a policy says that its author probably did not mean.

use nemoclaw_common::{FileAccess, Verdict};

use crate::bind::{Bindings, BoundSubject};
use crate::diagnostic::{Diagnostic, Place};
use crate::glob::{self, Component};
use crate::host::HostMatch;
use crate::index::Patterns;
use crate::pattern::PathPattern;
use crate::policy::Policy;
use crate::program::{PATH_DIRECTORIES, Program};
use crate::rule::{ActionWord, List, Rule, Subject};

/// Stand-ins for directories that are not known yet. No pattern can name them, because `{` and `}`
/// have no place in one.
const STAND_INS: Bindings<'static> = Bindings {
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

/// One rule with its pattern made whole by stand-ins.
struct Item<'p> {
    rule: &'p Rule,
    subject: BoundSubject,
}

/// Everything doubtful about a policy that has no errors.
pub(crate) fn warnings(policy: &Policy) -> Vec<Diagnostic> {
    let items: Vec<Item<'_>> = policy
        .rules
        .iter()
        .filter_map(|rule| {
            let subject = match &rule.subject {
                Subject::Files { access, pattern } => BoundSubject::Files {
                    access: *access,
                    pattern: pattern.bind(&STAND_INS).ok()?,
                    private: false,
                },
                Subject::Execute(program) => BoundSubject::Execute(program.bind(&STAND_INS).ok()?),
                Subject::Network(pattern) => BoundSubject::Network(pattern.clone()),
                Subject::External(pattern) => BoundSubject::External(pattern.clone()),
                Subject::Other(_) => BoundSubject::Other,
            };
            Some(Item { rule, subject })
        })
        .collect();
    let mut found = Vec::new();
    overruled(&items, &mut found);
    writable_programs(policy, &items, &mut found);
    readable_secrets(&items, &mut found);
    not_enforced(&items, &mut found);
    found
}

fn warn(place: &Place, message: String, hint: &str) -> Diagnostic {
    Diagnostic::warning(Some(place.clone()), message).hint(hint)
}

/// Rules that another rule leaves nothing to decide.
fn overruled(items: &[Item<'_>], found: &mut Vec<Diagnostic>) {
    let mut files = Patterns::default();
    let mut others = Vec::new();
    for (position, item) in items.iter().enumerate() {
        match &item.subject {
            BoundSubject::Files { pattern, .. } => files.add(pattern, position),
            BoundSubject::Execute(Program::Path(pattern)) => files.add(pattern, position),
            _ => others.push(position),
        }
    }
    for (position, item) in items.iter().enumerate() {
        let mut best: Option<&Item<'_>> = None;
        let mut consider = |candidate: usize| {
            let Some(other) = items.get(candidate) else {
                return;
            };
            let stronger = other.rule.list.verdict() > item.rule.list.verdict();
            let equal = other.rule.list == item.rule.list;
            if candidate == position || !(stronger || equal) || !includes(other, item) {
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
        match pattern_of(item) {
            Some(pattern) => {
                let names: Vec<&str> = pattern.anchor.components().collect();
                let mut path = names.clone();
                path.extend(pattern.literal_name());
                files.visit(&path, &mut consider);
            }
            None => others.iter().copied().for_each(&mut consider),
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
    let restricts = wide.rule.list != List::Allowed;
    match (&wide.subject, &narrow.subject) {
        (
            BoundSubject::Execute(Program::Name(left)),
            BoundSubject::Execute(Program::Name(right)),
        ) => left == right,
        (BoundSubject::Network(left), BoundSubject::Network(right))
        | (BoundSubject::External(left), BoundSubject::External(right)) => {
            // An allowance of every host leaves out what is not public.
            let any = left.host == HostMatch::Any && right.host != HostMatch::Any;
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
        _ => match (pattern_of(wide), pattern_of(narrow)) {
            (Some(left), Some(right)) => {
                let mut left = left.all_components();
                if restricts && left.last() != Some(&Component::AnyDepth) {
                    left.push(Component::AnyDepth);
                }
                glob::includes(&left, &right.all_components())
            }
            _ => false,
        },
    }
}

fn is_name(host: &HostMatch) -> bool {
    matches!(host, HostMatch::Name(_) | HostMatch::Subdomains(_))
}

/// What can be written and then executed is code that no policy has seen.
fn writable_programs(policy: &Policy, items: &[Item<'_>], found: &mut Vec<Diagnostic>) {
    let mut programs: Vec<(Vec<Component>, &Rule)> = Vec::new();
    let mut by_name: Option<&Rule> = None;
    for item in items.iter().filter(|item| item.rule.list == List::Allowed) {
        match &item.subject {
            BoundSubject::Execute(Program::Path(pattern)) => {
                programs.push((pattern.all_components(), item.rule));
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
        let BoundSubject::Files {
            access, pattern, ..
        } = &item.subject
        else {
            continue;
        };
        if !access.contains(FileAccess::WRITE) {
            continue;
        }
        let written = pattern.all_components();
        if let Some((_, rule)) = programs
            .iter()
            .find(|(parts, _)| glob::overlaps(parts, &written))
        {
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
fn readable_secrets(items: &[Item<'_>], found: &mut Vec<Diagnostic>) {
    let open = items.iter().find(|item| {
        item.rule.list != List::Denied
            && match &item.subject {
                BoundSubject::External(_) => true,
                BoundSubject::Network(pattern) => {
                    matches!(pattern.host, HostMatch::Any | HostMatch::Subdomains(_))
                }
                _ => false,
            }
    });
    let Some(open) = open else { return };
    let secrets: Vec<(&str, PathPattern)> = SECRETS
        .into_iter()
        .filter_map(|text| {
            let path = text.replacen('~', STAND_INS.home, 1);
            let path = crate::path::SandboxPath::try_from(path).ok()?;
            Some((text, PathPattern::beneath(path)))
        })
        .filter(|(_, secret)| {
            let secret = secret.all_components();
            !items.iter().any(|item| {
                item.rule.list == List::Denied
                    && item.rule.action == ActionWord::ReadFiles
                    && pattern_of(item).is_some_and(|denied| {
                        let mut denied = denied.all_components();
                        denied.push(Component::AnyDepth);
                        glob::includes(&denied, &secret)
                    })
            })
        })
        .collect();
    for item in items {
        let BoundSubject::Files {
            access, pattern, ..
        } = &item.subject
        else {
            continue;
        };
        if item.rule.list == List::Denied || !access.contains(FileAccess::READ) {
            continue;
        }
        let read = pattern.all_components();
        let reached: Vec<&str> = secrets
            .iter()
            .filter(|(_, secret)| glob::overlaps(&read, &secret.all_components()))
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
