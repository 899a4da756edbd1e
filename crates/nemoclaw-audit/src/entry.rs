//! What one entry says. A new field of the record starts here; `docs/audit.md` tells the other places.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One thing that happened, before the log numbers, dates and chains it.
///
/// The fields are written in this order after `sequence`, `timestamp` and `previous`. An absent value is written as
/// `null`, so that every line has every field. Strings longer than 4 KiB and details longer than 64 KiB are shortened
/// when they are written, with their length and digest in their place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The run of the agent: one launch to its end.
    pub run_id: Option<String>,
    /// The agent's name from its policy.
    pub agent_id: Option<String>,
    /// The person the agent acts for.
    pub user_on_behalf_of: Option<String>,
    /// The process that acted, as the host numbers it.
    pub pid: Option<u32>,
    /// The program that acted.
    pub program: Option<String>,
    /// What was done: `launch`, `exit`, `read`, `write`, `execute`, `connect`, `model_request`, `recover`…
    pub action: String,
    /// What it was done to. Chosen by the agent: never print it without [`crate::Shown`].
    pub resource: Option<String>,
    /// What was decided.
    pub policy_decision: Option<Decision>,
    /// The deciding rule, as the policy names it.
    pub rule: Option<String>,
    /// The mechanism that enforced the decision: `landlock`, `seccomp`, `mount`, `egress`…
    pub enforced_by: Option<String>,
    /// Why, in words for a person.
    pub reason: Option<String>,
    /// The privacy class of the content.
    pub privacy_classification: Option<String>,
    /// The model that answered.
    pub model_used: Option<String>,
    /// How long it took, in milliseconds.
    pub execution_time_ms: Option<u64>,
    /// What it cost, in model tokens.
    pub cost_tokens: Option<u64>,
    /// Anything else. `edit`, a string, is the smallest change to the policy that would allow what was refused;
    /// `count`, a number, how often the same was refused in this run up to now, where one entry stands for many.
    pub details: Option<Map<String, Value>>,
}

impl Entry {
    /// An entry of which only the action is known.
    pub fn new(action: impl Into<String>) -> Self {
        Self {
            action: action.into(),
            ..Self::default()
        }
    }

    /// The same entry with one more detail. `null` details are kept.
    #[must_use]
    pub fn with_detail(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.details
            .get_or_insert_with(Map::new)
            .insert(key.into(), value.into());
        self
    }

    /// How often the same happened in this run up to this entry, where the entry stands for many.
    pub fn count(&self) -> Option<u64> {
        self.details.as_ref()?.get("count")?.as_u64()
    }

    /// The smallest change to the policy that would allow what was refused, where the entry carries one.
    pub fn edit(&self) -> Option<&str> {
        self.details.as_ref()?.get("edit")?.as_str()
    }
}

/// What was decided about an action. Words of later versions are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Decision {
    /// It was allowed.
    Allow,
    /// It was refused.
    Deny,
    /// A person was asked.
    Ask,
    /// No decision could be reached or carried out; the action did not happen.
    Error,
    /// A word that this version does not know.
    Other(String),
}

impl Decision {
    /// The word in the log.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask => "ask",
            Self::Error => "error",
            Self::Other(word) => word,
        }
    }
}

impl From<String> for Decision {
    fn from(word: String) -> Self {
        match word.as_str() {
            "allow" => Self::Allow,
            "deny" => Self::Deny,
            "ask" => Self::Ask,
            "error" => Self::Error,
            _ => Self::Other(word),
        }
    }
}

impl From<Decision> for String {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Other(word) => word,
            known => known.as_str().to_owned(),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
