//! What will hold and what will not, mechanism by mechanism, and what a person
//! should know before the agent starts.

use std::fmt;

use nemoclaw_policy::{Enforcement, Level, Mechanism};
use serde::{Deserialize, Serialize};

/// How much of a mechanism this host gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Extent {
    Fully,
    Partly,
    Not,
}

/// One mechanism and what it will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) mechanism: String,
    pub(crate) extent: Extent,
    /// What is enforced, in a few words.
    pub(crate) detail: String,
    /// What is not, and what to do about it.
    pub(crate) lacks: Vec<Lack>,
}

/// Something that a mechanism cannot do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Lack {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl Lack {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// The report as it is put together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    /// Where the sandbox is stricter than the policy, or a rule has no effect.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// Adds what is known of one mechanism.
    ///
    /// # Errors
    /// When something lacks and the policy requires the mechanism.
    pub(crate) fn add(
        &mut self,
        enforcement: &Enforcement,
        mechanism: Mechanism,
        detail: impl Into<String>,
        lacks: Vec<Lack>,
        extent: Extent,
    ) -> Result<(), RequiredError> {
        if !lacks.is_empty() && enforcement.level(mechanism) == Level::Required {
            return Err(RequiredError {
                mechanism: mechanism.word().to_owned(),
                lacks,
            });
        }
        self.findings.push(Finding {
            mechanism: mechanism.word().to_owned(),
            extent,
            detail: detail.into(),
            lacks,
        });
        Ok(())
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// The policy requires what this host does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequiredError {
    pub(crate) mechanism: String,
    pub(crate) lacks: Vec<Lack>,
}

impl std::error::Error for RequiredError {}

impl fmt::Display for RequiredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mechanism = &self.mechanism;
        write!(
            f,
            "the policy requires `{mechanism}`, which this host does not give in full"
        )?;
        for lack in &self.lacks {
            write!(f, "\n  {}\n    remedy: {}", lack.what, lack.remedy)?;
        }
        write!(
            f,
            "\n  to start without it, write `enforcement: {{{mechanism}: best_effort}}` in the policy"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let extent = match finding.extent {
                Extent::Fully => "fully",
                Extent::Partly => "partly",
                Extent::Not => "NOT",
            };
            writeln!(
                f,
                "{:<12} {extent:<7} {}",
                finding.mechanism, finding.detail
            )?;
            for lack in &finding.lacks {
                writeln!(f, "{:<20} lacks: {}", "", lack.what)?;
                writeln!(f, "{:<20} remedy: {}", "", lack.remedy)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}
