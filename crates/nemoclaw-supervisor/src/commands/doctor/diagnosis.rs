//! From the facts to the verdict. Pure, so that a test describes a host and reads what its owner would.

use std::fmt;

use nemoclaw_policy::{Enforcement, Level, Mechanism as Layer, Policy};
use nemoclaw_sandbox::probe::{Mechanism, Tried};
use serde::Serialize;

use crate::facts::HostFacts;

/// What is to be launched, as far as a host can stand in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wants {
    enforcement: Enforcement,
    /// The limits that are set, by the names of the tries.
    limits: Vec<&'static str>,
    /// Whether these come from a policy; else the limits are told and hinder nothing.
    policy: bool,
}

impl Default for Wants {
    fn default() -> Self {
        Self {
            enforcement: Enforcement {
                default: None,
                named: [None; 7],
            },
            limits: LIMITS.to_vec(),
            policy: false,
        }
    }
}

const LIMITS: [&str; 5] = ["memory", "swap", "cpu", "pids", "io"];

impl Wants {
    pub(super) fn of(policy: &Policy) -> Self {
        let resources = &policy.resources;
        let set = [
            resources.memory.is_some(),
            resources.swap.is_some(),
            resources.cpus.is_some(),
            resources.pids.is_some(),
            resources.io.is_some(),
        ];
        let limits = LIMITS
            .into_iter()
            .zip(set)
            .filter_map(|(limit, set)| set.then_some(limit))
            .collect();
        Self {
            enforcement: policy.enforcement.clone(),
            limits,
            policy: true,
        }
    }

    fn required(&self, mechanism: Mechanism) -> bool {
        let layer = match mechanism {
            // Without these there is no sandbox to speak of; no policy can do without.
            Mechanism::Processes => return true,
            Mechanism::Namespaces | Mechanism::Network => Layer::Namespaces,
            Mechanism::Mounts => Layer::Mounts,
            Mechanism::Landlock => Layer::Landlock,
            Mechanism::Seccomp => Layer::Seccomp,
            Mechanism::Cgroups => Layer::Cgroups,
            Mechanism::KernelHooks => Layer::BpfHooks,
        };
        self.enforcement.level(layer) == Level::Required
    }
}

/// How much of a mechanism there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Extent {
    Fully,
    Partly,
    Not,
}

/// One mechanism.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    mechanism: &'static str,
    extent: Extent,
    required: bool,
    /// The features that work.
    has: Vec<String>,
    /// Those that a launch wants and that do not.
    lacks: Vec<Lacking>,
    /// Those that do not and that nothing rests on.
    without: Vec<Lacking>,
}

/// A feature that does not work here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Lacking {
    feature: String,
    why: String,
    remedy: String,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Diagnosis {
    kernel: String,
    person: String,
    privileged: bool,
    findings: Vec<Finding>,
    /// Whether the launch would be made.
    pub(super) launchable: bool,
    /// What stands in its way.
    hindrances: Vec<String>,
    policy: bool,
}

const ORDER: [(Mechanism, &str); 8] = [
    (Mechanism::Namespaces, "namespaces"),
    (Mechanism::Mounts, "mounts"),
    (Mechanism::Landlock, "landlock"),
    (Mechanism::Seccomp, "seccomp"),
    (Mechanism::Network, "network"),
    (Mechanism::Processes, "processes"),
    (Mechanism::Cgroups, "cgroups"),
    (Mechanism::KernelHooks, "kernel hooks"),
];

impl Diagnosis {
    pub(super) fn of(facts: &HostFacts, wants: &Wants) -> Self {
        let tried = facts.tried.as_deref().unwrap_or_default();
        let mut findings = Vec::new();
        let mut hindrances = Vec::new();
        for (mechanism, name) in ORDER {
            let finding = Finding::of(facts, wants, mechanism, name, tried);
            // Limits that nobody asked for stop nobody.
            let counts = mechanism != Mechanism::Cgroups || wants.policy;
            if finding.required && counts && !finding.lacks.is_empty() {
                let features: Vec<&str> = finding
                    .lacks
                    .iter()
                    .map(|lack| lack.feature.as_str())
                    .collect();
                hindrances.push(format!("{name}: {}", features.join(", ")));
            }
            findings.push(finding);
        }
        Self {
            kernel: facts.kernel.clone(),
            person: format!("{} (uid {})", facts.person.name, facts.person.uid),
            privileged: facts.privileged,
            findings,
            launchable: hindrances.is_empty(),
            hindrances,
            policy: wants.policy,
        }
    }
}

impl Finding {
    fn of(
        facts: &HostFacts,
        wants: &Wants,
        mechanism: Mechanism,
        name: &'static str,
        tried: &[Tried],
    ) -> Self {
        let required = wants.required(mechanism);
        let mut finding = Self {
            mechanism: name,
            extent: Extent::Not,
            required,
            has: Vec::new(),
            lacks: Vec::new(),
            without: Vec::new(),
        };
        // An ordinary user's own id map does what idmapped mounts do for root.
        let speaks = |one: &&Tried| facts.privileged || !one.feature.starts_with("idmapped");
        let of_this = || {
            tried
                .iter()
                .filter(|one| one.mechanism == mechanism)
                .filter(speaks)
        };
        for one in of_this() {
            if one.ok {
                finding.has.push(one.feature.clone());
                continue;
            }
            let remedy = match mechanism {
                // The settings that were read name the cause more sharply than the try can.
                Mechanism::Namespaces if one.feature == "user" => facts
                    .user_namespaces()
                    .err()
                    .map_or_else(|| one.remedy.clone(), |lack| lack.remedy),
                _ => one.remedy.clone(),
            };
            let lack = Lacking {
                feature: one.feature.clone(),
                why: one.detail.clone(),
                remedy,
            };
            if wanted(facts, wants, one) {
                finding.lacks.push(lack)
            } else {
                finding.without.push(lack)
            }
        }
        if of_this().next().is_none() {
            let why = "it was not tried".to_owned();
            finding.lacks.push(Lacking {
                feature: name.to_owned(),
                why,
                remedy: "run `doctor` again".to_owned(),
            });
        }
        finding.extent = match (finding.has.is_empty(), finding.lacks.is_empty()) {
            (true, _) => Extent::Not,
            (false, true) => Extent::Fully,
            (false, false) => Extent::Partly,
        };
        finding
    }
}

/// Whether a launch by this person wants the feature.
fn wanted(facts: &HostFacts, wants: &Wants, tried: &Tried) -> bool {
    match tried.mechanism {
        Mechanism::Cgroups => wants.limits.contains(&tried.feature.as_str()),
        Mechanism::KernelHooks => wants.required(Mechanism::KernelHooks),
        // Root's own agent gets an id that is nobody's, and only mounts can then make the files root's.
        Mechanism::Mounts if tried.feature == "idmapped workdir" => {
            facts.privileged && facts.person.uid == 0
        }
        _ => tried.needed,
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let privilege = if self.privileged {
            "with privilege"
        } else {
            "without privilege"
        };
        writeln!(f, "{:<13} {}", "kernel", Plain(&self.kernel))?;
        writeln!(
            f,
            "{:<13} {}, {privilege}\n",
            "started by",
            Plain(&self.person)
        )?;
        for finding in &self.findings {
            let extent = match finding.extent {
                Extent::Fully => "fully",
                Extent::Partly => "partly",
                Extent::Not => "NOT",
            };
            let has = finding.has.join(", ");
            let line = format!("{:<13} {extent:<7} {}", finding.mechanism, Plain(&has));
            writeln!(f, "{}", line.trim_end())?;
            for (sign, lacking) in [("lacks", &finding.lacks), ("without", &finding.without)] {
                for (index, lack) in lacking.iter().enumerate() {
                    writeln!(
                        f,
                        "{:21} {sign} {}: {}",
                        "",
                        Plain(&lack.feature),
                        Plain(&lack.why)
                    )?;
                    // One remedy for several lacks is told once, after the last of them.
                    let again = lacking
                        .get(index + 1)
                        .is_some_and(|next| next.remedy == lack.remedy);
                    if !lack.remedy.is_empty() && !again {
                        writeln!(f, "{:21}   remedy: {}", "", Plain(&lack.remedy))?;
                    }
                }
            }
        }
        writeln!(f)?;
        let what = if self.policy {
            "this policy"
        } else {
            "a policy that requires every mechanism and sets no limit"
        };
        if self.launchable {
            writeln!(f, "{what} can be launched here by {}", Plain(&self.person))
        } else {
            writeln!(
                f,
                "{what} can NOT be launched here by {}; in its way:",
                Plain(&self.person)
            )?;
            self.hindrances
                .iter()
                .try_for_each(|one| writeln!(f, "  {}", Plain(one)))
        }
    }
}

/// Text from the host, with control characters shown and not obeyed by a terminal.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            // Also the marks that turn the direction of writing: they reorder what is read.
            let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if letter.is_control() || turns {
                write!(f, "{}", letter.escape_unicode())?
            } else {
                write!(f, "{letter}")?
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
