//! A policy: its text read and checked.

use serde::Serialize;

use crate::diagnostic::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS, Severity, Source, quote, sort};
use crate::lint;
use crate::reader::{NOT_YET, Reader};
use crate::rule::{List, Rule};
use crate::rules;
use crate::sections::{
    AgentName, Audit, Enforcement, Environment, Identity, Models, Privacy, Resources, Workdir,
};
use crate::yaml::{self, Kind, MAX_TEXT_BYTES, Node};

/// The version of the language that this crate reads.
const VERSION: u64 = 1;

const SECTIONS: [&str; 13] = [
    "version",
    "name",
    "enforcement",
    "identity",
    "workdir",
    "environment",
    "resources",
    "audit",
    "models",
    "privacy",
    "allowed_actions",
    "denied_actions",
    "approval_required",
];

const LATER: [&str; 4] = ["extends", "secrets", "compliance", "tests"];

/// A checked policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// What the agent is called.
    pub name: AgentName,
    /// The version of the language, always 1.
    pub version: u32,
    /// Which mechanisms the agent must not run without.
    pub enforcement: Enforcement,
    /// As whom the agent runs, and on whose behalf.
    pub identity: Identity,
    /// Where the agent works.
    pub workdir: Workdir,
    /// Which variables the agent sees.
    pub environment: Environment,
    /// How much of the machine the agent may use.
    pub resources: Resources,
    /// Where the record of decisions is kept.
    pub audit: Audit,
    /// Where the agent's model requests go.
    pub models: Models,
    /// What may leave this machine.
    pub privacy: Privacy,
    /// The entries of the three lists, in the order of the text.
    pub rules: Vec<Rule>,
    /// What is doubtful, in the order of the text.
    pub warnings: Vec<Diagnostic>,
}

impl Policy {
    /// Reads and checks the text of a policy.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the text, at once. The text must be at most
    /// [`MAX_TEXT_BYTES`] long.
    pub fn parse(text: &str) -> Result<Self, Diagnostics> {
        if text.len() > MAX_TEXT_BYTES {
            let message = format!(
                "the policy is {} bytes long, and at most {MAX_TEXT_BYTES} are read",
                text.len()
            );
            let hint = "split it into policies for several agents";
            return Err(Diagnostics(vec![
                Diagnostic::error(None, message).hint(hint),
            ]));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Source::new(text);
        let mut reader = Reader::new(&source);
        let root = yaml::parse(text, &source, &mut reader.diagnostics);
        let policy = match &root {
            Some(root) => {
                yaml::refuse_duplicates(root, &source, &mut reader.diagnostics);
                read(&mut reader, root)
            }
            None => {
                if reader.diagnostics.is_empty() {
                    let hint = "begin with `agent_policy:` and, indented beneath it, `name:`";
                    let message = "the policy is empty";
                    reader
                        .diagnostics
                        .push(Diagnostic::error(None, message).hint(hint));
                }
                None
            }
        };
        let mut diagnostics = reader.diagnostics;
        sort(&mut diagnostics);
        limit(&mut diagnostics);
        let wrong = diagnostics
            .iter()
            .any(|found| found.severity == Severity::Error);
        match policy {
            Some(mut policy) if !wrong => {
                diagnostics.extend(lint::warnings(&policy));
                sort(&mut diagnostics);
                limit(&mut diagnostics);
                policy.warnings = diagnostics;
                Ok(policy)
            }
            _ => Err(Diagnostics(diagnostics)),
        }
    }
}

/// Keeps the first of very many, errors before warnings.
fn limit(diagnostics: &mut Vec<Diagnostic>) {
    if diagnostics.len() <= MAX_DIAGNOSTICS {
        return;
    }
    // The sort is stable, so each kind stays in the order of the text.
    diagnostics.sort_by_key(|found| std::cmp::Reverse(found.severity));
    diagnostics.truncate(MAX_DIAGNOSTICS);
    sort(diagnostics);
    let severity = diagnostics.iter().map(|found| found.severity).max();
    diagnostics.push(Diagnostic {
        severity: severity.unwrap_or(Severity::Error),
        message: format!("there are more than {MAX_DIAGNOSTICS}, and the others are not shown"),
        place: None,
        hint: None,
    });
}

fn read(reader: &mut Reader<'_>, root: &Node) -> Option<Policy> {
    let body = body(reader, root)?;
    let fields = reader.fields(body, "the policy", &SECTIONS, &LATER)?;
    let version = fields.get("version").map_or(Some(VERSION), |node| {
        let version = reader.number(node, "`version`", 1)?;
        if version != VERSION {
            let message = format!("`version: {version}` {NOT_YET}");
            reader.error_hint(node.span, message, format!("write `version: {VERSION}`"));
        }
        Some(version)
    });
    let name = match fields.get("name") {
        Some(node) => AgentName::read(reader, node),
        None => {
            let hint = "add `name: my-agent`; it names the agent in every record";
            reader.error_hint(body.span, "the policy has no `name`", hint);
            None
        }
    };
    let enforcement = fields
        .get("enforcement")
        .map(|node| Enforcement::read(reader, node));
    let identity = fields
        .get("identity")
        .map(|node| Identity::read(reader, node));
    let workdir = fields
        .get("workdir")
        .map(|node| Workdir::read(reader, node));
    let environment = fields
        .get("environment")
        .map(|node| Environment::read(reader, node))
        .unwrap_or_default();
    let resources = fields
        .get("resources")
        .map(|node| Resources::read(reader, node));
    let audit = fields.get("audit").map(|node| Audit::read(reader, node));
    let privacy = fields
        .get("privacy")
        .map(|node| Privacy::read(reader, node))
        .unwrap_or_default();
    let models = fields
        .get("models")
        .map(|node| Models::read(reader, node, privacy.local_only));

    // A wrong name was complained of above; its variable should not be complained of again.
    let stand_in = name.as_ref().map_or("name", AgentName::as_str);
    let variables = |word: &str| match (environment.set.get(word), word) {
        (Some(value), _) => Some(value.clone()),
        (None, "name") => Some(stand_in.to_owned()),
        (None, _) => None,
    };
    let lists = [List::Allowed, List::Denied, List::Approval]
        .map(|list| (list, fields.get(list.section())));
    let rules = rules::read(reader, lists, &variables);
    Some(Policy {
        name: name?,
        version: u32::try_from(version?).ok()?,
        enforcement: enforcement.unwrap_or_default(),
        identity: identity.unwrap_or_default(),
        workdir: workdir.unwrap_or_default(),
        environment,
        resources: resources.unwrap_or_default(),
        audit: audit.unwrap_or_default(),
        models: models.unwrap_or_default(),
        privacy,
        rules,
        warnings: Vec::new(),
    })
}

/// The map that holds the sections: the document, or what stands under its `agent_policy`.
fn body<'n>(reader: &mut Reader<'_>, root: &'n Node) -> Option<&'n Node> {
    let Kind::Map(entries) = &root.kind else {
        reader.wrong_kind(root, "the policy", "a map", "begin with `agent_policy:`");
        return None;
    };
    let Some((_, body)) = entries.iter().find(|(key, _)| key.text == "agent_policy") else {
        return Some(root);
    };
    for (key, _) in entries.iter().filter(|(key, _)| key.text != "agent_policy") {
        reader.error_hint(
            key.span,
            format!("{} stands beside `agent_policy`", quote(&key.text)),
            "indent it so that it stands inside `agent_policy`",
        );
    }
    Some(body)
}
