//! Edits: what to change in a policy's text so that it allows an action.

use std::fmt;

use nemoclaw_common::{FileAccess, Verdict};
use serde::Serialize;

use crate::action::Action;
use crate::bind::BoundPolicy;
use crate::diagnostic::visible;
use crate::evaluate::RuleRef;
use crate::host::{DEFAULT_PORTS, is_local_name};
use crate::path::SandboxPath;
use crate::rule::{ActionWord, List};

/// One change to a policy's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Remove a rule, or narrow it so that it no longer speaks of the action.
    Remove(RuleRef),
    /// Add an entry under `allowed_actions`; the text is one line of YAML.
    Allow(String),
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(rule) => write!(f, "removing or narrowing {rule}"),
            Self::Allow(entry) => write!(f, "`{entry}` under `allowed_actions`"),
        }
    }
}

impl BoundPolicy {
    /// A smallest edit of the policy's text after which the action is allowed; empty when it is
    /// allowed already.
    ///
    /// # Errors
    ///
    /// Why no edit can allow it.
    pub fn edits(&self, action: &Action) -> Result<Vec<Edit>, String> {
        let decision = self.evaluate(action);
        if decision.verdict == Verdict::Allow {
            return Ok(Vec::new());
        }
        let rules: Vec<RuleRef> = decision
            .rule
            .into_iter()
            .chain(decision.runners_up)
            .collect();
        let mut edits = Vec::new();
        let mut allowed = rules.iter().any(|rule| rule.verdict == Verdict::Allow);
        for rule in rules.iter().filter(|rule| rule.verdict != Verdict::Allow) {
            if rule.list == List::BuiltIn {
                let why = rule
                    .reason
                    .as_deref()
                    .unwrap_or("it holds for every policy");
                return Err(format!("{rule} holds for every policy: {why}"));
            }
            if rule.action == Some(ActionWord::ExternalNetwork) {
                // A `network_access` rule takes the destination out of its reach.
                allowed = false;
            } else {
                edits.push(Edit::Remove(rule.clone()));
            }
        }
        if !allowed {
            edits.push(addition(action)?);
        }
        Ok(edits)
    }
}

/// The entry that allows exactly this action, or why there is none.
pub(crate) fn addition(action: &Action) -> Result<Edit, String> {
    let (word, text) = match action {
        Action::Connect { host, port } => (ActionWord::NetworkAccess, destination(host, *port)?),
        Action::Read(path) => (ActionWord::ReadFiles, pattern(path, FileAccess::READ)?),
        Action::Write(path) => (ActionWord::WriteFiles, pattern(path, FileAccess::WRITE)?),
        Action::Delete(path) => (ActionWord::DeleteFiles, pattern(path, FileAccess::DELETE)?),
        Action::Execute(path) => (ActionWord::ExecuteCode, pattern(path, FileAccess::EXECUTE)?),
    };
    Ok(Edit::Allow(format!("- {}: [\"{text}\"]", word.word())))
}

fn destination(host: &str, port: u16) -> Result<String, String> {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    if is_local_name(&name) {
        return Err("no name leads to this machine or its network; \
             connect to the literal address, such as `127.0.0.1`, and allow that"
            .to_owned());
    }
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    Ok(if DEFAULT_PORTS.contains(&port) {
        host
    } else {
        format!("{host}:{port}")
    })
}

/// The pattern of this path. What a pattern cannot hold is matched by `*`.
fn pattern(path: &SandboxPath, access: FileAccess) -> Result<String, String> {
    let changes = access.intersects(FileAccess::WRITE | FileAccess::DELETE);
    if changes && path.as_str() == "/" {
        return Err("the root directory of the sandbox is never changed".to_owned());
    }
    let shown = visible(path.as_str());
    let mut text = String::with_capacity(shown.len());
    for (character, shown) in path.as_str().chars().zip(shown.chars()) {
        let odd =
            character != shown || matches!(shown, '?' | '[' | ']' | '{' | '}' | '\\' | '*' | '"');
        if !odd {
            text.push(shown);
        } else if !text.ends_with('*') {
            text.push('*');
        }
    }
    if let Some(rest) = text.strip_suffix(char::is_whitespace) {
        text = format!("{}*", rest.trim_end().trim_end_matches('*'));
    }
    if text.ends_with("/*") {
        return Err("its name is made of characters that no pattern can hold; allow the directory that holds it".to_owned());
    }
    Ok(text)
}
