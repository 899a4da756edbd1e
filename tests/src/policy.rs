//! A policy's text, put together.

use std::fmt;

/// A policy that a test writes: lists of rules and whole sections.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The agent's name.
    pub name: String,
    allowed: Vec<String>,
    denied: Vec<String>,
    enforcement: Vec<String>,
    sections: Vec<String>,
}

impl Policy {
    /// One that allows nothing.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            allowed: Vec::new(),
            denied: Vec::new(),
            enforcement: Vec::new(),
            sections: Vec::new(),
        }
    }

    /// Adds an allowance, such as `allow("read_files", &["/srv/*"])`.
    #[must_use]
    pub fn allow(mut self, action: &str, patterns: &[&str]) -> Self {
        self.allowed.push(rule(action, patterns));
        self
    }

    /// Adds a denial.
    #[must_use]
    pub fn deny(mut self, action: &str, patterns: &[&str]) -> Self {
        self.denied.push(rule(action, patterns));
        self
    }

    /// Says how much a mechanism matters: `required` or `best_effort`.
    #[must_use]
    pub fn enforce(mut self, mechanism: &str, level: &str) -> Self {
        let start = format!("{mechanism}:");
        self.enforcement.retain(|word| !word.starts_with(&start));
        self.enforcement.push(format!("{start} {level}"));
        self
    }

    /// Adds a section, such as `section("resources: {pids: 64}")`.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        self.sections.push(text.to_owned());
        self
    }
}

fn rule(action: &str, patterns: &[&str]) -> String {
    let quoted: Vec<String> = patterns
        .iter()
        .map(|pattern| format!("\"{pattern}\""))
        .collect();
    format!("    - {action}: [{}]\n", quoted.join(", "))
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "agent_policy:\n  version: 1\n  name: \"{}\"", self.name)?;
        for (list, rules) in [
            ("allowed_actions", &self.allowed),
            ("denied_actions", &self.denied),
        ] {
            if !rules.is_empty() {
                write!(f, "  {list}:\n{}", rules.concat())?;
            }
        }
        if !self.enforcement.is_empty() {
            writeln!(f, "  enforcement: {{{}}}", self.enforcement.join(", "))?;
        }
        for section in &self.sections {
            writeln!(f, "  {section}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_written_as_a_person_would() {
        let policy = Policy::new("a")
            .allow("read_files", &["${workdir}/*", "/srv"])
            .deny("write_files", &["/srv/x"])
            .enforce("cgroups", "best_effort")
            .enforce("cgroups", "required")
            .section("audit: {path: \"/var/log/a\"}");
        assert_eq!(
            policy.to_string(),
            "agent_policy:\n  version: 1\n  name: \"a\"\n  allowed_actions:\n    \
             - read_files: [\"${workdir}/*\", \"/srv\"]\n  denied_actions:\n    \
             - write_files: [\"/srv/x\"]\n  enforcement: {cgroups: required}\n  \
             audit: {path: \"/var/log/a\"}\n"
        );
    }
}
