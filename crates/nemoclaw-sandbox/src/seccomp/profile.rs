//! A profile: which calls are allowed, which only with certain arguments, which are refused, and why.

mod condition;
mod document;

use std::collections::BTreeMap;

pub(super) use condition::{Condition, Test, Width};

use super::{Architecture, Errno};

/// A checked profile. `docs/seccomp.md` describes the text it is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    name: String,
    // INVARIANT: the key is the number of `Entry::name` on that architecture.
    entries: BTreeMap<(Architecture, u32), Entry>,
}

/// What a profile says of one call on one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) reason: String,
    pub(super) verdict: Verdict,
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Allowed whatever its arguments, so the kernel can cache the answer.
    Allow,
    /// Allowed where every condition of at least one alternative holds.
    When {
        alternatives: Vec<Vec<Condition>>,
        otherwise: Refusal,
    },
    Refuse(Refusal),
}

/// How a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) report: bool,
}

impl Refusal {
    /// What befalls a call that a profile does not mention.
    pub(super) const UNLISTED: Self = Self {
        errno: Errno::PERM,
        report: true,
    };
    /// What befalls a number that belongs to no call known here: a newer kernel's, or none at all.
    /// `ENOSYS` is what an older kernel would say, so libraries fall back.
    pub(super) const UNKNOWN: Self = Self {
        errno: Errno::NOSYS,
        report: true,
    };
}

impl Profile {
    /// The profile for agents and what they start, as text.
    pub const AGENT: &str = include_str!("../../profiles/agent.json");
    /// The narrower profile for the worker that handles the agent's outbound traffic, as text.
    pub const EGRESS: &str = include_str!("../../profiles/egress.json");

    /// The most bytes of text that [`Profile::parse`] takes.
    pub const MAX_TEXT: usize = 1 << 20;

    /// Reads a profile from its JSON text.
    ///
    /// # Errors
    ///
    /// A [`ProfileError`] that names the call at fault: unknown fields, calls, architectures, constants
    /// and error names are refused, and so are calls that are listed twice.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        document::parse(text)
    }

    /// The profile's name, for reports.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why this call is listed as it is, or `None` where the profile does not mention it.
    #[must_use]
    pub fn reason(&self, architecture: Architecture, number: i32) -> Option<&str> {
        let number = u32::try_from(number).ok()?;
        self.entry(architecture, number)
            .map(|entry| entry.reason.as_str())
    }

    pub(super) fn entry(&self, architecture: Architecture, number: u32) -> Option<&Entry> {
        self.entries.get(&(architecture, number))
    }
}

/// Why a text is no profile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Longer than [`Profile::MAX_TEXT`].
    #[error("the profile is {0} bytes long; at most {max} are read", max = Profile::MAX_TEXT)]
    TooLong(usize),
    /// Not JSON, or not the fields that a profile has.
    #[error("the profile's text does not have a profile's form")]
    Form(#[source] serde_json::Error),
    /// An empty list where at least one member is needed.
    #[error("`{place}` is empty; name at least one member")]
    Empty {
        /// The list or text, with its place.
        place: String,
    },
    /// A name that is no system call where the rule applies.
    #[error(
        "rule for `{call}`: {architecture} has no such system call; correct the name or list the rule's `architectures`"
    )]
    UnknownCall {
        /// The name as written.
        call: String,
        /// Where it is missing.
        architecture: Architecture,
    },
    /// The same call is listed twice to the same effect or to two effects.
    #[error(
        "`{call}` is listed as {first} and again as {second} for {architecture}; keep one of them"
    )]
    Duplicate {
        /// The call.
        call: String,
        /// Where both apply.
        architecture: Architecture,
        /// The list of the first mention.
        first: &'static str,
        /// The list of the second mention.
        second: &'static str,
    },
    /// A value that is neither a number nor a known name.
    #[error("rule for `{call}`: `{value}` is neither a number nor a constant known here")]
    UnknownConstant {
        /// The rule's first call.
        call: String,
        /// The value as written.
        value: String,
    },
    /// An error name that is not known.
    #[error("rule for `{call}`: `{errno}` is not one of {known}", known = super::constants::errno_names())]
    UnknownErrno {
        /// The rule's first call.
        call: String,
        /// The name as written.
        errno: String,
    },
    /// A condition that cannot mean anything.
    #[error("rule for `{call}`, argument {argument}: {problem}")]
    Condition {
        /// The rule's first call.
        call: String,
        /// The argument's index, from 0.
        argument: u8,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More alternatives or conditions than a filter has room for.
    #[error("rule for `{call}` has {count} {what}; at most {max} fit")]
    TooMany {
        /// The rule's first call.
        call: String,
        /// Alternatives or conditions.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
}

#[cfg(test)]
mod tests;
