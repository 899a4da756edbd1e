//! What was refused, each thing once.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::entry::{Decision, Entry};
use crate::show::Shown;

/// How many distinct refusals are told apart; an agent can make up any number.
const MAX_DISTINCT: usize = 1000;

/// Collects refusals: one for each distinct action, resource and rule, with a count.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    seen: BTreeMap<(String, Option<String>, Option<String>), usize>,
    list: Vec<Refusal>,
    /// The highest running count of each refusal in each run.
    running: BTreeMap<(usize, Option<String>), u64>,
    beyond: u64,
}

/// One distinct refusal. It displays as one line, safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What was tried.
    pub action: String,
    /// On what.
    pub resource: Option<String>,
    /// The rule that refused it.
    pub rule: Option<String>,
    /// The mechanism that enforced it.
    pub enforced_by: Option<String>,
    /// Why, in words.
    pub reason: Option<String>,
    /// The smallest change to the policy that would allow it.
    pub edit: Option<String>,
    /// How often it was refused.
    pub count: u64,
}

impl Refusals {
    /// Takes note of an entry, if it is a refusal.
    ///
    /// An entry may stand for many: where its details hold a `count`, that is how often this was refused in its run up
    /// to then.
    pub fn note(&mut self, entry: &Entry) {
        if entry.policy_decision != Some(Decision::Deny) {
            return;
        }
        let key = (
            entry.action.clone(),
            entry.resource.clone(),
            entry.rule.clone(),
        );
        if let Some(index) = self.seen.get(&key).copied() {
            let more = self.more(index, entry);
            if let Some(known) = self.list.get_mut(index) {
                known.count = known.count.saturating_add(more);
            }
            return;
        }
        if self.list.len() == MAX_DISTINCT {
            self.beyond += 1;
            return;
        }
        let index = self.list.len();
        self.seen.insert(key, index);
        let count = self.more(index, entry);
        self.list.push(Refusal {
            action: entry.action.clone(),
            resource: entry.resource.clone(),
            rule: entry.rule.clone(),
            enforced_by: entry.enforced_by.clone(),
            reason: entry.reason.clone(),
            edit: entry.edit().map(str::to_owned),
            count,
        });
    }

    /// How many refusals an entry adds.
    fn more(&mut self, index: usize, entry: &Entry) -> u64 {
        let Some(count) = entry.count() else {
            return 1;
        };
        let running = self
            .running
            .entry((index, entry.run_id.clone()))
            .or_default();
        let more = count.saturating_sub(*running);
        *running += more;
        more
    }

    /// The distinct refusals in the order in which each first happened: at most a thousand.
    pub fn list(&self) -> &[Refusal] {
        &self.list
    }

    /// How many further refusals were counted but not told apart.
    pub fn beyond(&self) -> u64 {
        self.beyond
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Shown(&self.action))?;
        if let Some(resource) = &self.resource {
            write!(f, " `{}`", Shown(resource))?;
        }
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        match &self.rule {
            Some(rule) => write!(f, ": refused by `{}`", Shown(rule))?,
            None => f.write_str(": no rule allows it")?,
        }
        if let Some(mechanism) = &self.enforced_by {
            write!(f, " ({})", Shown(mechanism))?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ", {}", Shown(reason.trim_end_matches('.')))?;
        }
        if let Some(edit) = &self.edit {
            write!(f, "; edit: {}", Shown(edit))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(resource: &str) -> Entry {
        Entry {
            resource: Some(resource.to_owned()),
            policy_decision: Some(Decision::Deny),
            ..Entry::new("write")
        }
    }

    #[test]
    fn each_distinct_refusal_is_one_line_with_the_rule_and_the_edit() {
        let mut refusals = Refusals::default();
        let ruled = Entry {
            rule: Some("denied_actions[0]".to_owned()),
            enforced_by: Some("landlock".to_owned()),
            reason: Some("keep out.".to_owned()),
            ..refused("/production/\x1b[2J")
        };
        refusals.note(&ruled.clone().with_detail("edit", "remove line 12"));
        refusals.note(&refused("/etc/passwd"));
        refusals.note(&ruled);
        refusals.note(&Entry::new("launch"));
        let lines: Vec<String> = refusals.list().iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        write `/production/\u{1b}[2J` (2 times): refused by `denied_actions[0]` (landlock), keep out; edit: remove line 12
        write `/etc/passwd`: no rule allows it
        ");
    }

    #[test]
    fn running_counts_of_each_run_are_added_up() {
        let mut refusals = Refusals::default();
        let counted = |run: &str, count: u64| Entry {
            run_id: Some(run.to_owned()),
            ..refused("/x").with_detail("count", count)
        };
        for (run, count) in [("a", 1), ("b", 1), ("a", 2), ("a", 4), ("b", 1), ("a", 5)] {
            refusals.note(&counted(run, count));
        }
        refusals.note(&refused("/x"));
        assert_eq!(refusals.list()[0].count, 7);
        assert_eq!(refusals.list().len(), 1);
    }

    #[test]
    fn an_agent_that_makes_up_resources_cannot_fill_the_memory() {
        let mut refusals = Refusals::default();
        for number in 0..MAX_DISTINCT + 7 {
            refusals.note(&refused(&number.to_string()));
        }
        assert_eq!(
            (refusals.list().len(), refusals.beyond()),
            (MAX_DISTINCT, 7)
        );
    }
}
