//! `name`: what the agent is called in cgroups, records and reports.

use std::fmt;

use serde::Serialize;

use crate::diagnostic::quote;
use crate::reader::Reader;
use crate::yaml::Node;

const MAX_BYTES: usize = 64;

/// The name of an agent.
// INVARIANT: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or digit; so it is one component
// of a path, and needs no quoting anywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AgentName(String);

/// Why a text is no [`AgentName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is no name for an agent: 1 to 64 letters, digits, `.`, `_` and `-` are, the first a letter or digit", quote(.0))]
pub struct NameError(String);

impl AgentName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node) -> Option<Self> {
        let text = reader.text(node, "`name`")?;
        match Self::try_from(text) {
            Ok(name) => Some(name),
            Err(error) => {
                let near: String = text
                    .chars()
                    .map(|c| {
                        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                            c
                        } else {
                            '-'
                        }
                    })
                    .take(MAX_BYTES)
                    .collect();
                let near = near.trim_start_matches(['.', '_', '-']);
                if near.is_empty() {
                    reader.error(node.span, error.to_string());
                } else {
                    reader.error_hint(node.span, error.to_string(), format!("write `{near}`"));
                }
                None
            }
        }
    }
}

impl TryFrom<&str> for AgentName {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.len() <= MAX_BYTES
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(good)
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.to_owned()))
        }
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
