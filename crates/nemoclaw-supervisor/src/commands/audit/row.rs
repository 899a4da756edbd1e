//! One line of a log as one aligned line for people, safe for a terminal.

use std::fmt;

use nemoclaw_audit::{Entry, Line, Record, Shown};

/// Displays a line of a log: time, number, decision, action, resource, and what else it says.
pub(super) struct Row<'a>(pub(super) &'a Line);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.record {
            Ok(record) => record_row(record, f),
            Err(error) => write!(
                f,
                "BAD LINE at byte {}: {error}; `audit verify` says more",
                self.0.offset
            ),
        }
    }
}

fn record_row(record: &Record, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let entry = &record.entry;
    let time = record
        .instant()
        .map_or_else(String::new, |instant| format!("{instant:.3}"));
    let decision = entry.policy_decision.as_ref().map_or("-", |it| it.as_str());
    write!(
        f,
        "{time:24} {:>6}  {:5}  {:13}",
        record.sequence,
        Shown(decision).to_string(),
        Shown(&entry.action).to_string()
    )?;
    if let Some(resource) = &entry.resource {
        write!(f, "  {}", Shown(resource))?;
    }
    let notes = notes(entry);
    if !notes.is_empty() {
        write!(f, "  ({notes})")?;
    }
    Ok(())
}

/// What people ask for after the resource, most telling first.
fn notes(entry: &Entry) -> String {
    let mut notes = Vec::new();
    let mut note = |word: &str, value: Option<&str>| {
        if let Some(value) = value {
            notes.push(format!("{word}{}", Shown(value)));
        }
    };
    note(
        "",
        entry.reason.as_deref().map(|it| it.trim_end_matches('.')),
    );
    let times = entry.count().filter(|count| *count > 1);
    let times = times.map(|count| format!("{count} times so far"));
    note("", times.as_deref());
    note("rule ", entry.rule.as_deref());
    note("by ", entry.enforced_by.as_deref());
    note("privacy ", entry.privacy_classification.as_deref());
    note("model ", entry.model_used.as_deref());
    if let Some(cost) = entry.cost_tokens {
        notes.push(format!("{cost} tokens"));
    }
    if let Some(time) = entry.execution_time_ms {
        notes.push(format!("{time} ms"));
    }
    match (&entry.program, entry.pid) {
        (Some(program), Some(pid)) => notes.push(format!("{} pid {pid}", Shown(program))),
        (Some(program), None) => notes.push(Shown(program).to_string()),
        (None, Some(pid)) => notes.push(format!("pid {pid}")),
        (None, None) => {}
    }
    if let Some(run) = &entry.run_id {
        notes.push(format!("run {}", Shown(run)));
    }
    notes.join("; ")
}
