//! `enforcement`: which mechanisms the agent must not run without.

use serde::Serialize;

use crate::reader::Reader;
use crate::yaml::Node;

/// Whether a launch without the mechanism is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The agent is not started where the mechanism is missing.
    Required,
    /// The agent is started, and what is missing is told.
    BestEffort,
}

/// A mechanism of the kernel that enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// namespaces(7).
    Namespaces,
    /// The private root: pivot_root(2) and mounts.
    Mounts,
    /// landlock(7).
    Landlock,
    /// seccomp(2).
    Seccomp,
    /// cgroups(7).
    Cgroups,
    /// Files made by the agent belong to who started it.
    Identity,
    /// bpf(2) programs at the kernel's security hooks.
    BpfHooks,
}

impl Mechanism {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Namespaces,
        Self::Mounts,
        Self::Landlock,
        Self::Seccomp,
        Self::Cgroups,
        Self::Identity,
        Self::BpfHooks,
    ];

    /// The word as the policy's text has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Mounts => "mounts",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Cgroups => "cgroups",
            Self::Identity => "identity",
            Self::BpfHooks => "bpf_hooks",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// What each mechanism is worth to the policy's author.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Enforcement {
    /// The level of every mechanism that is not named; required when the text is silent.
    pub default: Option<Level>,
    /// The level of each mechanism that is named, in the order of [`Mechanism::ALL`].
    pub named: [Option<Level>; 7],
}

impl Enforcement {
    /// What a mechanism is worth. The BPF hooks are best effort unless they are named themselves,
    /// because they need privilege and only narrow what the other layers enforce.
    #[must_use]
    pub fn level(&self, mechanism: Mechanism) -> Level {
        match self.named.get(mechanism.index()).copied().flatten() {
            Some(level) => level,
            None if mechanism == Mechanism::BpfHooks => Level::BestEffort,
            None => self.default.unwrap_or(Level::Required),
        }
    }

    /// Whether the policy's text decides the level, by the mechanism's own word or by `default`.
    #[must_use]
    pub fn stated(&self, mechanism: Mechanism) -> bool {
        self.named
            .get(mechanism.index())
            .copied()
            .flatten()
            .is_some()
            || (self.default.is_some() && mechanism != Mechanism::BpfHooks)
    }

    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node) -> Self {
        const WORDS: [&str; 8] = [
            "default",
            "namespaces",
            "mounts",
            "landlock",
            "seccomp",
            "cgroups",
            "identity",
            "bpf_hooks",
        ];
        let mut enforcement = Self::default();
        let Some(fields) = reader.fields(node, "`enforcement`", &WORDS, &[]) else {
            return enforcement;
        };
        let mut level = |word: &str| {
            let what = format!("the level of `{word}`");
            let chosen =
                reader.choice(fields.get(word)?, &what, &["required", "best_effort"], &[])?;
            Some(if chosen == "best_effort" {
                Level::BestEffort
            } else {
                Level::Required
            })
        };
        enforcement.default = level("default");
        for mechanism in Mechanism::ALL {
            enforcement.named[mechanism.index()] = level(mechanism.word());
        }
        enforcement
    }
}
