//! From a policy and a host to a launch plan. Pure: what the host has was looked
//! up before ([`crate::facts`], [`crate::places`]), so a plan can be made for any
//! host that a test describes, and the plan that is printed is the one that runs.

mod environment;
mod identity;
mod landlock;
mod limits;
mod programs;
pub(crate) mod report;
mod seccomp;
mod steps;
#[cfg(test)]
mod tests;
mod trees;
pub(crate) mod worker;

use std::net::Ipv4Addr;

use nemoclaw_policy::{BoundPolicy, Enforcement, Level, List, Mechanism, Subject};
use nemoclaw_sandbox::plan::{Command, LaunchPlan, Namespace, Program};
use nemoclaw_sandbox::seccomp::{CompileError, ProfileError};

use crate::facts::HostFacts;
use crate::places::{Executable, Kind, NamedElsewhere, Places, is_within};
use report::{Extent, Lack, Report, RequiredError};
use trees::Files;

/// Where the agent finds the model: an address of its own loopback network that
/// its own servers are unlikely to want.
pub(crate) const MODEL_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// `inference.local`
pub(crate) const MODEL_PORT: u16 = 80;
/// `HTTP_PROXY`
pub(crate) const PROXY_PORT: u16 = 3128;
/// The agent's home directory, on its own private `/tmp`.
pub(crate) const HOME: &str = "/tmp/home";
/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) policy: &'a BoundPolicy,
    pub(crate) facts: &'a HostFacts,
    pub(crate) places: &'a Places,
    /// The command as it was typed.
    pub(crate) arguments: &'a [String],
    /// What its first word led to.
    pub(crate) program: Option<&'a Executable>,
    /// Which of the standard three are to be a terminal, and its size.
    pub(crate) terminal: [bool; 3],
    pub(crate) terminal_size: (u16, u16),
    /// The caller's variables that the policy passes, by name.
    pub(crate) passed: &'a [(String, String)],
    /// Process id of the supervisor.
    pub(crate) supervisor: u32,
    /// A name for this run, unique on this host.
    pub(crate) run: &'a str,
}

/// What will run and how far it is enforced.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    pub(crate) launch: LaunchPlan,
    pub(crate) report: Report,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(
        "this kernel has no {0} namespaces, without which there is no sandbox, whatever the policy says; use a kernel built with them (CONFIG_NAMESPACES)"
    )]
    NoSandbox(Namespace),
    #[error(transparent)]
    Required(#[from] RequiredError),
    #[error("`{0}` is not on the agent's PATH and no path to a file")]
    NotFound(String),
    #[error("`{0}` is not a file with the permission to be executed; see chmod(1)")]
    NotExecutable(String),
    #[error(
        "the policy does not allow `{command}` to be executed; add it to `allowed_actions`: \
         `- execute_code: [\"{edit}\"]`"
    )]
    NotAllowed { command: String, edit: String },
    #[error(
        "`{command}` is a script for `{interpreter}`, which the policy does not allow to be \
         executed; add it to `allowed_actions`: `- execute_code: [\"{interpreter}\"]`"
    )]
    Interpreter {
        command: String,
        interpreter: String,
    },
    #[error(
        "`{path}` leads through the symbolic link `{link}`, which lies in `{tree}` where the agent \
         may write, so it decides nothing; name the place itself"
    )]
    PlantedLink {
        path: String,
        link: String,
        tree: String,
    },
    #[error(
        "working directory `{0}` is not readable under this policy; allow \
         `read_files: [\"${{workdir}}/*\"]` or choose another `workdir: {{path: …}}`"
    )]
    WorkingDirectory(String),
    #[error(
        "the audit log's directory `{0}` holds the agent's working directory; choose another place with \
         `audit: {{path: …}}`"
    )]
    AuditInReach(String),
    #[error(
        "started by root, the agent gets an id of its own and needs mounts that map ids, which \
         `{path}` on this file system cannot have; start nemoclaw with sudo from an ordinary \
         account, or as that account"
    )]
    NoIdmap { path: String },
    #[error(
        "this is root of a user namespace, as in a rootless container, where the agent can get neither an id of its \
         own nor mounts that map ids; start nemoclaw as another user of the container"
    )]
    RootOfNamespace,
    #[error("could not make the system-call filter")]
    Profile(#[from] ProfileError),
    #[error("could not make the system-call filter")]
    Filter(#[from] CompileError),
    #[error("this processor architecture has no system-call profile")]
    Architecture,
}

impl PlanError {
    /// As env(1) and shells have it.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotExecutable(_) | Self::NotAllowed { .. } | Self::Interpreter { .. } => 126,
            _ => 125,
        }
    }
}

/// Plans one agent.
pub(crate) fn plan(request: &Request<'_>) -> Result<Planned, PlanError> {
    let Request {
        policy,
        facts,
        places,
        ..
    } = *request;
    let enforcement = &policy.policy().enforcement;
    let mut report = Report::default();

    let namespaces = namespaces(facts);
    // Best effort is for what narrows the sandbox further. Without these the agent would have the host's files,
    // processes or network.
    if let Some(lacking) = CORE.into_iter().find(|core| !namespaces.contains(core)) {
        return Err(PlanError::NoSandbox(lacking));
    }
    let lacks = namespaces_lacking(facts, &namespaces);
    let detail = namespaces
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let extent = if lacks.is_empty() {
        Extent::Fully
    } else {
        Extent::Partly
    };
    report.add(enforcement, Mechanism::Namespaces, detail, lacks, extent)?;

    // Everything in it is hidden from the agent, wherever else it lies.
    if let Some(workdir) = &places.working_directory
        && let Some(hidden) = places
            .hidden
            .iter()
            .find(|place| is_within(workdir.path(), place.path()))
    {
        return Err(PlanError::AuditInReach(hidden.path().to_owned()));
    }

    let compiled = policy.compile();
    let mut files = trees::decide(places, &mut report)?;
    programs::grant_programs(&compiled, places, &mut files, &mut report);
    let directory = working_directory(places, &files)?;
    report.add(
        enforcement,
        Mechanism::Mounts,
        format!(
            "private root, {} host trees, {} paths covered",
            files.trees.len(),
            files.covers.len()
        ),
        Vec::new(),
        Extent::Fully,
    )?;

    let (identity, idmap) = identity::identity(request, &files, &mut report)?;
    let landlock = landlock::landlock(&compiled, enforcement, facts, &files, &mut report)?;
    let seccomp = seccomp::seccomp(enforcement, facts, &mut report)?;
    let cgroup = limits::cgroup(request, &directory, &mut report)?;
    hooks(enforcement, &files, &mut report)?;
    later_notes(policy, &mut report);
    hard_link_notes(&places.named_elsewhere, &mut report);

    let program = programs::executable_path(request, &files)?;
    let command = Command {
        program: Program::Path(program),
        arguments: request.arguments.to_vec(),
        environment: environment::environment(request),
        directory,
        terminal: request.terminal,
        filter: None,
    };
    let steps = steps::Sandbox {
        facts,
        places,
        files: &files,
        identity,
        idmap,
        namespaces: &namespaces,
        listens: policy.policy().models.upstream.is_some(),
        host_name: policy.policy().name.as_str(),
        temporary_size: limits::temporary_size(policy.policy()),
        terminal: request
            .terminal
            .contains(&true)
            .then_some(request.terminal_size),
        limits: limits::resource_limits(policy.policy(), facts, &mut report),
        landlock,
        seccomp,
        command,
    };
    Ok(Planned {
        launch: LaunchPlan {
            name: policy.policy().name.as_str().to_owned(),
            cgroup,
            identity,
            steps: steps.assemble(),
        },
        report,
    })
}

/// A change of a file shows under all of its names, and mounts hold paths.
fn hard_link_notes(found: &NamedElsewhere, report: &mut Report) {
    if found.count > 0 {
        let examples: Vec<String> = found
            .examples
            .iter()
            .map(|path| format!("`{}`", path.escape_debug()))
            .collect();
        report.note(format!(
            "files in writable trees that have names elsewhere too (hard links), where the agent's changes will show: \
             {}, such as {}; to part one, copy it and put the copy in its place",
            found.count,
            examples.join(", ")
        ));
    }
    if found.partial {
        report.note(
            "not all files in writable trees were looked at for hard links that lead elsewhere: they are too many, or in \
             a directory that is closed to you",
        );
    }
}

/// What makes a sandbox.
const CORE: [Namespace; 4] = [
    Namespace::User,
    Namespace::Mount,
    Namespace::Pid,
    Namespace::Net,
];

/// All that the kernel has; the order is that in which they nest.
fn namespaces(facts: &HostFacts) -> Vec<Namespace> {
    use Namespace::{Cgroup, Ipc, Mount, Net, Pid, Time, User, Uts};
    [User, Mount, Pid, Net, Ipc, Uts, Cgroup, Time]
        .into_iter()
        .filter(|namespace| facts.has_namespace(*namespace))
        .collect()
}

fn namespaces_lacking(facts: &HostFacts, have: &[Namespace]) -> Vec<Lack> {
    let mut lacks: Vec<Lack> = [Namespace::Ipc, Namespace::Uts]
        .into_iter()
        .filter(|namespace| !have.contains(namespace))
        .map(|namespace| {
            Lack::new(
                format!("this kernel has no {namespace} namespaces"),
                "use a kernel built with them (CONFIG_NAMESPACES)",
            )
        })
        .collect();
    if let Some((what, remedy)) = facts.user_namespaces_refused() {
        lacks.push(Lack::new(what, remedy));
    }
    lacks
}

fn working_directory(places: &Places, files: &Files) -> Result<String, PlanError> {
    let Some(place) = &places.working_directory else {
        return Err(PlanError::WorkingDirectory(String::from("(missing)")));
    };
    let inside = files
        .trees
        .iter()
        .any(|tree| is_within(place.path(), tree.place.path()));
    if place.kind == Kind::Directory && inside {
        Ok(place.path().to_owned())
    } else {
        Err(PlanError::WorkingDirectory(place.path().to_owned()))
    }
}

fn hooks(enforcement: &Enforcement, files: &Files, report: &mut Report) -> Result<(), PlanError> {
    let mut lacks = files.for_hooks.clone();
    if lacks.is_empty() && enforcement.level(Mechanism::BpfHooks) == Level::Required {
        lacks.push(Lack::new(
            "kernel hooks are not supported yet by this version",
            "leave `bpf_hooks` at `best_effort`",
        ));
    }
    report.add(
        enforcement,
        Mechanism::BpfHooks,
        "not supported yet by this version; mounts and Landlock hold what exists at the start",
        lacks,
        Extent::Not,
    )?;
    Ok(())
}

/// What the policy speaks of and this version cannot do.
fn later_notes(policy: &BoundPolicy, report: &mut Report) {
    let rules = &policy.policy().rules;
    let says = |list: List, network: bool| {
        rules.iter().any(|rule| {
            rule.list == list && (!network || matches!(rule.subject, Subject::Network(_)))
        })
    };
    if says(List::Allowed, true) {
        report.note(
            "`network_access` is not supported yet by this version: the agent reaches its own \
             loopback network and the model, nothing else",
        );
    }
    if says(List::Approval, false) {
        report.note(
            "`approval_required` is not supported yet by this version: what needs approval is refused",
        );
    }
}
