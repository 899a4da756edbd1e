//! Turns policy text into a checked [`Policy`] and answers what it decides.
//!
//! ```text
//! text --parse--> Policy --bind--> BoundPolicy --evaluate--> Decision
//!                                       `------compile---> Compiled
//! ```
//!
//! Everything here is pure: values in, values out. No file is read, no name resolved, no clock
//! asked. Nothing panics on any input.
#![forbid(unsafe_code)]

mod action;
mod bind;
mod builtin;
mod compile;
mod diagnostic;
mod edit;
mod evaluate;
mod glob;
mod host;
mod index;
mod lint;
mod path;
mod pattern;
mod policy;
mod program;
mod reader;
mod rule;
mod rules;
mod sections;
mod serialize;
mod words;
mod yaml;

pub use action::{Action, ActionError};
pub use bind::{Bindings, BoundPolicy};
pub use compile::{Compiled, PathRule, ProgramRule};
pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity};
pub use edit::Edit;
pub use evaluate::{Decision, RuleRef};
pub use host::{DEFAULT_PORTS, HostError, HostMatch, HostPattern};
pub use nemoclaw_common::{FileAccess, RuleId, Verdict};
pub use path::{PathError, SandboxPath};
pub use pattern::{PathPattern, PatternError, Tail, Template};
pub use policy::Policy;
pub use program::{PATH_DIRECTORIES, Program, ProgramTemplate};
pub use rule::{ActionWord, List, Rule, Subject};
pub use sections::{
    AgentName, Audit, Enforcement, Environment, Identity, IdentityUser, IoLimits, KeySource, Level,
    Mechanism, MilliCpus, Models, NameError, Privacy, Resources, Upstream, Workdir, WorkdirMode,
};
pub use yaml::{MAX_DEPTH, MAX_NODES, MAX_TEXT_BYTES};

/// The name under which the agent finds its model inside the sandbox.
pub const MODEL_HOST: &str = "inference.local";
