//! `policy explain`: what a policy decides of one action, by which rule, and what would change it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use nemoclaw_policy::{
    Action, BoundPolicy, Decision, Edit, PathPattern, Program, RuleRef, SandboxPath, Tail, Verdict,
};
use serde::Serialize;

use super::resolve::{Resolved, resolve};
use crate::commands::Format;
use crate::facts::Person;
use crate::policy_file;

/// What `policy explain` takes.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The policy
    file: PathBuf,
    /// `read:PATH`, `write:PATH`, `delete:PATH`, `execute:PATH` or `connect:HOST:PORT`
    ///
    /// A path may begin with `~/`, or be relative to the agent's working directory; a program may be named as on the
    /// agent's PATH. Symbolic links are followed where this host has them.
    action: String,
    /// What `${workdir}` stands for, instead of the policy's `workdir.path`; need not exist
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// What `~` stands for, instead of your home directory; need not exist
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(args: &ExplainArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let (policy, _) = policy_file::load(&args.file)?;
    let current = std::env::current_dir().context("could not find the current directory")?;
    let bound = match (&args.home, &args.workdir) {
        (None, None) => policy_file::bind(&policy, &current, &Person::who_started()?)?,
        (home, workdir) => {
            let home = match home {
                Some(home) => current.join(home),
                None => PathBuf::from(Person::who_started()?.home),
            };
            let home = policy_file::directory("home", &home)?;
            let workdir = match workdir {
                Some(workdir) => policy_file::directory("working", &current.join(workdir))?,
                None => policy_file::workdir(&policy, &current, &home)
                    .context("name another with `--workdir`")?,
            };
            policy_file::bind_to(&policy, &home, &workdir)?
        }
    };
    let answer = Answer::of(&bound, &args.action)?;
    match args.format {
        Format::Text => write!(out, "{}", answer.shown(&args.file.to_string_lossy()))?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &answer)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What a policy decides of one action.
#[derive(Debug, Serialize)]
struct Answer {
    /// What was decided: the question with its path resolved.
    action: Action,
    #[serde(flatten)]
    decision: Decision,
    /// How the question was understood, and what the decision leaves open.
    notes: Vec<String>,
    /// What to change so that the policy allows it; `None` when it does, or nothing can.
    edits: Option<Vec<Edit>>,
    /// Why nothing can.
    no_edit: Option<String>,
}

impl Answer {
    fn of(policy: &BoundPolicy, question: &str) -> anyhow::Result<Self> {
        let asked = Asked::of(policy, question)?;
        let Asked {
            action, mut notes, ..
        } = asked;
        let mut decided = (action.clone(), policy.evaluate(&action));
        let names = asked.written.into_iter().chain(aliases(policy, &action));
        for name in names.filter(|name| *name != action) {
            let named = (name.clone(), policy.evaluate(&name));
            decided = together(policy, decided, named, &action, &mut notes);
        }
        let (asking, decision) = decided;
        if decision.verdict == Verdict::Ask {
            notes.push("this version has nobody to ask, so what is held is refused".to_owned());
        }
        let written = decision
            .rule
            .as_ref()
            .is_some_and(|rule| rule.line.is_some());
        if matches!(action, Action::Connect { .. }) && decision.verdict == Verdict::Allow && written
        {
            notes.push(
                "this version gives the agent no network besides its model, so it is not reached yet"
                    .to_owned(),
            );
        }
        let executes = matches!(action, Action::Execute(_)) && decision.rule.is_none();
        let compiled = policy.compile();
        if executes && compiled.programs.iter().any(is_digest) {
            notes.push("rules by digest allow nothing in this version".to_owned());
        }
        let (edits, no_edit) = match decision.verdict {
            Verdict::Allow => (None, None),
            Verdict::Ask | Verdict::Deny => match policy.edits(&asking) {
                Ok(edits) if edits.is_empty() => (None, None),
                Ok(edits) => (Some(edits), None),
                Err(why) => (None, Some(why)),
            },
        };
        Ok(Self {
            action,
            decision,
            notes,
            edits,
            no_edit,
        })
    }

    fn shown<'a>(&'a self, file: &'a str) -> Shown<'a> {
        Shown { answer: self, file }
    }
}

fn is_digest(rule: &nemoclaw_policy::ProgramRule) -> bool {
    matches!(rule.program, Program::Digest(_))
}

/// A question, understood.
struct Asked {
    /// The action at the place that its path leads to.
    action: Action,
    /// The action as it was written, where that is absolute and normal.
    written: Option<Action>,
    notes: Vec<String>,
}

impl Asked {
    fn of(policy: &BoundPolicy, question: &str) -> anyhow::Result<Self> {
        let (word, text) = question.split_once(':').unwrap_or((question, ""));
        let is_file = matches!(word, "read" | "write" | "delete" | "execute");
        if !is_file || text.is_empty() {
            return Ok(Self {
                action: question.parse()?,
                written: None,
                notes: Vec::new(),
            });
        }
        let whole = match text.strip_prefix('~') {
            Some("") => policy.home.to_string(),
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", policy.home),
            _ if text.starts_with('/') => text.to_owned(),
            _ if word == "execute" && !text.contains('/') => on_path(policy, text)?,
            _ => format!("{}/{text}", policy.workdir),
        };
        let action = |path: &str| format!("{word}:{path}").parse::<Action>();
        let written = SandboxPath::try_from(whole.as_str()).ok();
        let resolves = !written
            .as_ref()
            .is_some_and(|path| is_private(policy, path));
        let Resolved { path, links } = if !resolves {
            Resolved {
                path: whole.clone().into(),
                links: Vec::new(),
            }
        } else {
            // A link that is deleted is not followed.
            resolve(Path::new(&whole), word != "delete")
        };
        let path = path
            .to_str()
            .with_context(|| format!("`{text}` leads to a name that is not UTF-8"))?;
        let mut notes = Vec::new();
        if path != text {
            let by: Vec<String> = links
                .iter()
                .map(|link| format!("`{}`", link.display()))
                .collect();
            notes.push(match by.split_last() {
                None => format!("`{text}` is `{path}`"),
                Some((link, [])) => format!("`{text}` leads to `{path}`, by the link {link}"),
                Some((last, others)) => {
                    let others = others.join(", ");
                    format!("`{text}` leads to `{path}`, by the links {others} and {last}")
                }
            });
        }
        Ok(Self {
            action: action(path)?,
            written: written.and_then(|path| action(path.as_str()).ok()),
            notes,
        })
    }
}

/// The program that the agent gets by this name.
fn on_path(policy: &BoundPolicy, name: &str) -> anyhow::Result<String> {
    let mut places = policy
        .path_directories
        .iter()
        .map(|directory| format!("{directory}/{name}"));
    places
        .find(|place| Path::new(place).is_file())
        .with_context(|| {
            format!(
                "`{name}` is in no directory of the agent's PATH; write a path, such as `./{name}`"
            )
        })
}

/// Whether the sandbox has its own at this path, so that where the host's leads says nothing.
fn is_private(policy: &BoundPolicy, path: &SandboxPath) -> bool {
    let compiled = policy.compile();
    let private = compiled
        .grants
        .iter()
        .any(|rule| rule.private && rule.pattern.matches(path.as_str()));
    let decision = policy.evaluate(&Action::Read(path.clone()));
    let written = decision.rule.is_some_and(|rule| rule.line.is_some());
    // What a policy names in `/tmp` comes from the host; `/proc` and `/dev` never do.
    private
        && (!written
            || ["/proc/", "/dev/"]
                .iter()
                .any(|tree| path.as_str().starts_with(tree)))
}

/// The action by the names that rules have for its place, where those are links.
fn aliases(policy: &BoundPolicy, action: &Action) -> Vec<Action> {
    let real = Path::new(place(action));
    let compiled = policy.compile();
    let rules = [&compiled.grants, &compiled.denials, &compiled.holds];
    let files = rules.into_iter().flatten().map(|rule| &rule.pattern);
    let programs = compiled
        .programs
        .iter()
        .filter_map(|rule| match &rule.program {
            Program::Path(pattern) => Some(pattern),
            Program::Name(_) | Program::Digest(_) => None,
        });
    let anchors: BTreeSet<&str> = files
        .chain(programs)
        .map(|pattern| pattern.anchor.as_str())
        .collect();
    let mut names: Vec<String> = anchors
        .into_iter()
        .filter_map(|anchor| {
            let end = resolve(Path::new(anchor), true).path;
            let rest = real.strip_prefix(&end).ok()?;
            let name = Path::new(anchor).join(rest);
            let name = name.to_str()?.trim_end_matches('/');
            (end != Path::new(anchor)).then(|| name.to_owned())
        })
        .collect();
    if matches!(action, Action::Execute(_)) {
        for rule in &compiled.programs {
            let Program::Name(name) = &rule.program else {
                continue;
            };
            let places = policy.path_directories.iter();
            let places = places.map(|directory| format!("{directory}/{name}"));
            names.extend(places.filter(|place| resolve(Path::new(place), true).path == real));
        }
    }
    let text = action.to_string();
    let word = text.split(':').next().unwrap_or_default();
    let actions = names
        .into_iter()
        .map(|name| format!("{word}:{name}").parse());
    actions.filter_map(Result::ok).collect()
}

/// One decision of what was decided so far and of the same action by another name. The sandbox
/// follows the names in rules as well, so a rule counts where its own name leads to the place.
fn together(
    policy: &BoundPolicy,
    before: (Action, Decision),
    other: (Action, Decision),
    action: &Action,
    notes: &mut Vec<String>,
) -> (Action, Decision) {
    let refuses =
        |decision: &Decision| decision.rule.is_some() && decision.verdict != Verdict::Allow;
    let (name, named) = (&other.0, &other.1);
    let leads = |verdict: Verdict| {
        named
            .rule
            .iter()
            .chain(&named.runners_up)
            .any(|rule| rule.verdict == verdict && leads_to(policy, rule, action, name))
    };
    if refuses(named) {
        if refuses(&before.1) && named.verdict <= before.1.verdict {
            return before;
        }
        if !leads(named.verdict) {
            notes.push(format!(
                "only the link has the name that is withheld; withhold `{}` as well",
                place(action)
            ));
        }
        return other;
    }
    if before.1.rule.is_some() || named.verdict != Verdict::Allow {
        return before;
    }
    if leads(Verdict::Allow) {
        return other;
    }
    if let Some(rule) = &named.rule {
        notes.push(format!("the link leads out of what {rule} names"));
    }
    before
}

/// Whether the sandbox, which follows the names in rules, finds the place by this rule.
fn leads_to(policy: &BoundPolicy, rule: &RuleRef, action: &Action, written: &Action) -> bool {
    let (real, written) = (place(action), place(written));
    let compiled = policy.compile();
    let files = compiled
        .grants
        .iter()
        .chain(&compiled.denials)
        .chain(&compiled.holds);
    let by_file = files
        .filter(|other| other.rule == rule.id)
        .any(|other| pattern_leads_to(&other.pattern, real, written));
    let by_program = compiled
        .programs
        .iter()
        .filter(|other| other.rule == rule.id)
        .any(|other| match &other.program {
            // The search for a program follows links.
            Program::Name(_) => other.verdict == Verdict::Allow,
            Program::Path(pattern) => pattern_leads_to(pattern, real, written),
            Program::Digest(_) => false,
        });
    by_file || by_program
}

fn pattern_leads_to(pattern: &PathPattern, real: &str, written: &str) -> bool {
    let anchor = pattern.anchor.as_str();
    let end = resolve(Path::new(anchor), true).path;
    match pattern.tail {
        Tail::This | Tail::Beneath => Path::new(real).starts_with(end),
        // Below the anchor, links have names of their own.
        Tail::Glob => Path::new(written)
            .strip_prefix(anchor)
            .is_ok_and(|rest| end.join(rest) == Path::new(real)),
        Tail::Name => false,
    }
}

fn place(action: &Action) -> &str {
    action.file().map_or("", |(_, path)| path.as_str())
}

/// An answer as people read it.
struct Shown<'a> {
    answer: &'a Answer,
    file: &'a str,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = &self.answer.decision;
        let verdict = match decision.verdict {
            Verdict::Allow => "allowed",
            Verdict::Ask => "held for approval",
            Verdict::Deny => "denied",
        };
        writeln!(f, "{} is {verdict}", self.answer.action)?;
        match &decision.rule {
            Some(rule) => {
                writeln!(f, "  by    {}", self.rule(rule))?;
                if let Some(reason) = &rule.reason {
                    writeln!(f, "        because {reason}")?;
                }
            }
            None => writeln!(f, "  by    no rule: what no rule allows is denied")?,
        }
        for rule in &decision.runners_up {
            writeln!(f, "  over  {}", self.rule(rule))?;
        }
        for note in &self.answer.notes {
            writeln!(f, "  note  {note}")?;
        }
        if let Some(edits) = &self.answer.edits {
            writeln!(f, "to allow it")?;
            for edit in edits {
                match edit {
                    Edit::Remove(rule) => writeln!(f, "  remove or narrow {}", self.rule(rule))?,
                    Edit::Allow(entry) => writeln!(f, "  add `{entry}` under `allowed_actions`")?,
                }
            }
        }
        if let Some(why) = &self.answer.no_edit {
            writeln!(f, "no policy can allow it")?;
            writeln!(f, "  {why}")?;
        }
        Ok(())
    }
}

impl Shown<'_> {
    fn rule(&self, rule: &RuleRef) -> String {
        let word = rule.action.map_or("", |action| action.word());
        match rule.line {
            Some(line) => {
                let (file, list) = (self.file, rule.list.section());
                format!("{file}:{line}: `{word}: {}` under `{list}`", rule.text)
            }
            None => format!("the built-in rule `{}`", rule.text),
        }
    }
}

#[cfg(test)]
mod tests;
