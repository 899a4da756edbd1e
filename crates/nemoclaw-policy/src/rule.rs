//! Rules: the entries of the three lists.

use nemoclaw_common::{FileAccess, RuleId, Verdict};
use serde::Serialize;

use crate::diagnostic::Place;
use crate::host::HostPattern;
use crate::pattern::Template;
use crate::program::ProgramTemplate;

/// The list that a rule stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum List {
    /// `allowed_actions`.
    Allowed,
    /// `approval_required`.
    Approval,
    /// `denied_actions`.
    Denied,
    /// No list of the policy: the rule holds for every policy.
    #[serde(rename = "built in")]
    BuiltIn,
}

impl List {
    /// The list's name as reports show it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Approval => "approval",
            Self::Denied => "denied",
            Self::BuiltIn => "built in",
        }
    }

    /// The word in the policy's text that begins the list.
    #[must_use]
    pub const fn section(self) -> &'static str {
        match self {
            Self::Allowed => "allowed_actions",
            Self::Approval => "approval_required",
            Self::Denied => "denied_actions",
            Self::BuiltIn => "the built-in rules",
        }
    }

    pub(crate) const fn verdict(self) -> Verdict {
        match self {
            Self::Allowed => Verdict::Allow,
            Self::Approval => Verdict::Ask,
            Self::Denied | Self::BuiltIn => Verdict::Deny,
        }
    }
}

/// The action words of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionWord {
    /// Reading a file, listing a directory.
    ReadFiles,
    /// Creating, modifying, truncating, renaming into, linking, changing metadata.
    WriteFiles,
    /// Unlinking, removing a directory, renaming away or over.
    DeleteFiles,
    /// Executing a program.
    ExecuteCode,
    /// Reaching a destination.
    NetworkAccess,
    /// Reaching a destination that no `network_access` rule names.
    ExternalNetwork,
    /// Publishing: `git push`, `npm publish`, `kubectl apply` and their kin.
    DeployCode,
    /// Tools in model requests and MCP calls.
    UseTools,
    /// Models.
    UseModels,
    /// Installing skills.
    InstallSkills,
    /// The GPU.
    UseGpu,
    /// Messages to other agents.
    SendMessages,
}

impl ActionWord {
    pub(crate) const ALL: [Self; 12] = [
        Self::ReadFiles,
        Self::WriteFiles,
        Self::DeleteFiles,
        Self::ExecuteCode,
        Self::NetworkAccess,
        Self::ExternalNetwork,
        Self::DeployCode,
        Self::UseTools,
        Self::UseModels,
        Self::InstallSkills,
        Self::UseGpu,
        Self::SendMessages,
    ];

    /// The word as the policy's text has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ReadFiles => "read_files",
            Self::WriteFiles => "write_files",
            Self::DeleteFiles => "delete_files",
            Self::ExecuteCode => "execute_code",
            Self::NetworkAccess => "network_access",
            Self::ExternalNetwork => "external_network",
            Self::DeployCode => "deploy_code",
            Self::UseTools => "use_tools",
            Self::UseModels => "use_models",
            Self::InstallSkills => "install_skills",
            Self::UseGpu => "use_gpu",
            Self::SendMessages => "send_messages",
        }
    }

    /// What the entry of a map form is called.
    pub(crate) const fn entries_word(self) -> &'static str {
        match self {
            Self::ReadFiles | Self::WriteFiles | Self::DeleteFiles => "paths",
            Self::ExecuteCode => "programs",
            Self::NetworkAccess | Self::ExternalNetwork => "hosts",
            Self::DeployCode => "commands",
            Self::UseTools => "tools",
            Self::UseModels => "models",
            Self::InstallSkills => "skills",
            Self::UseGpu => "gpus",
            Self::SendMessages => "agents",
        }
    }

    pub(crate) const fn access(self) -> Option<FileAccess> {
        match self {
            Self::ReadFiles => Some(FileAccess::READ),
            Self::WriteFiles => Some(FileAccess::WRITE),
            Self::DeleteFiles => Some(FileAccess::DELETE),
            _ => None,
        }
    }

    /// Whether `true` may stand in place of a list, for everything.
    pub(crate) const fn takes_true(self) -> bool {
        matches!(
            self,
            Self::DeployCode
                | Self::UseTools
                | Self::UseModels
                | Self::InstallSkills
                | Self::UseGpu
                | Self::SendMessages
        )
    }
}

/// What a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Files, by a pattern.
    Files {
        /// What is done to them; never empty, never execution.
        #[serde(serialize_with = "crate::serialize::access")]
        access: FileAccess,
        /// Which ones.
        pattern: Template,
    },
    /// Programs.
    Execute(ProgramTemplate),
    /// Destinations.
    Network(HostPattern),
    /// Destinations that no `network_access` rule names.
    External(HostPattern),
    /// Anything else, by name; `None` stands for all of it.
    Other(Option<String>),
}

/// One entry of one of the three lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The rule's number, counted from 1 in the order of the text.
    #[serde(serialize_with = "crate::serialize::rule")]
    pub id: RuleId,
    /// The list that it stands in.
    pub list: List,
    /// The action word that it stands under.
    pub action: ActionWord,
    /// What it speaks of.
    pub subject: Subject,
    /// The entry as it was written.
    pub text: String,
    /// Why, in the words of the policy's author.
    pub reason: Option<String>,
    /// Where it stands.
    pub place: Place,
}
