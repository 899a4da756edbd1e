//! From a policy and a host to a launch plan. Pure: what the host has was looked
//! up before ([`crate::facts`], [`crate::places`]), so a plan can be made for any
//! host that a test describes, and the plan that is printed is the one that runs.

mod environment;
mod limits;
pub(crate) mod report;
mod steps;
#[cfg(test)]
mod tests;
mod trees;
pub(crate) mod worker;

use std::net::Ipv4Addr;

use nemoclaw_policy::{
    BoundPolicy, Compiled, Enforcement, FileAccess, Level, List, Mechanism,
    Program as PolicyProgram, Subject, Verdict,
};
use nemoclaw_sandbox::plan::{
    Command, FileRights, Identity, LandlockRules, LaunchPlan, Namespace, PathRights, Program,
};
use nemoclaw_sandbox::seccomp::{CompileError, Filter, Profile, ProfileError, RefusalAction};

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
/// Seen inside when root starts the agent, whose own id must not be 0.
const INSIDE_WHEN_ROOT: u32 = 1000;
/// Host ids behind agents that root starts: this and the supervisor's process id,
/// so that no two agents share one and none is a person's. Above what
/// distributions and containers hand out, below 2^31 (systemd, UIDS-GIDS.md).
const FIRST_AGENT_ID: u32 = 1_900_000_000;

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
    grant_programs(&compiled, places, &mut files, &mut report);
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

    let (identity, idmap) = identity(request, &files, &mut report)?;
    let landlock = landlock(&compiled, enforcement, facts, &files, &mut report)?;
    let seccomp = seccomp(enforcement, facts, &mut report)?;
    let cgroup = limits::cgroup(request, &directory, &mut report)?;
    hooks(enforcement, &files, &mut report)?;
    later_notes(policy, &mut report);
    hard_link_notes(&places.named_elsewhere, &mut report);

    let program = executable_path(request, &files)?;
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

/// Rights to execute what the policy names, and the loaders that this takes.
fn grant_programs(compiled: &Compiled, places: &Places, files: &mut Files, report: &mut Report) {
    let denied = |path: &str, named: &str| {
        places.denials.iter().chain(&places.holds).any(|located| {
            let rule = &located.rule;
            rule.access.contains(FileAccess::EXECUTE)
                && (rule.pattern.covers(path) || rule.pattern.covers(named))
        })
    };
    let mut allowed = Vec::new();
    for rule in &compiled.programs {
        match (&rule.program, rule.verdict) {
            (PolicyProgram::Digest(_), _) => files.for_hooks.push(Lack::new(
                "a rule about a program's digest is not enforced, and grants nothing",
                "name the program by its path; digests need the kernel hooks",
            )),
            (PolicyProgram::Name(name), Verdict::Allow) => {
                let found = places
                    .programs
                    .get(name)
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                if found.is_empty() {
                    report.note(format!("`{name}` is not on the agent's PATH"));
                }
                for found in found {
                    if !denied(found.place.path(), &found.place.named) {
                        allowed.push(found);
                    }
                }
            }
            _ => {}
        }
    }
    for executable in &allowed {
        grant_program(files, &executable.place);
        if let Some((name, place)) = &executable.interpreter {
            let runnable = place.as_ref().is_some_and(|place| {
                may_execute(files, place.path())
                    || allowed
                        .iter()
                        .any(|other| other.place.path() == place.path())
            });
            if !runnable {
                report.note(format!(
                    "`{}` is a script for `{name}`, which the policy does not allow",
                    executable.place.named
                ));
            }
        }
    }
    let executes = files
        .rights
        .values()
        .any(|rights| !(*rights & FileRights::EXECUTE).is_empty());
    for loader in places.loaders.iter().filter(|_| executes) {
        *files.rights.entry(loader.path().to_owned()).or_default() |= FileRights::EXECUTE;
    }
}

/// A program in a mounted tree needs the right; one that lies elsewhere is
/// mounted alone.
fn grant_program(files: &mut Files, place: &crate::places::Place) {
    use nemoclaw_sandbox::plan::Attributes;
    let inside = files
        .trees
        .iter()
        .rev()
        .find(|tree| is_within(place.path(), tree.place.path()));
    if inside.is_none_or(|tree| tree.attributes.no_exec) {
        files.trees.push(trees::Tree {
            place: place.clone(),
            attributes: Attributes {
                read_only: inside.is_none_or(|tree| tree.attributes.read_only),
                ..Attributes::default()
            },
            access: FileAccess::EXECUTE,
        });
    }
    let reached = files.links.keys().any(|link| is_within(&place.named, link))
        || files
            .trees
            .iter()
            .any(|tree| is_within(&place.named, tree.place.path()));
    if place.named != place.path() && !reached {
        files
            .links
            .insert(place.named.clone(), place.path().to_owned());
    }
    *files.rights.entry(place.path().to_owned()).or_default() |= FileRights::EXECUTE;
}

fn may_execute(files: &Files, path: &str) -> bool {
    files.rights.iter().any(|(granted, rights)| {
        is_within(path, granted) && !(*rights & FileRights::EXECUTE).is_empty()
    }) && files
        .covers
        .iter()
        .all(|(covered, cover)| !is_within(path, covered) || !(cover.masked || cover.no_exec))
}

/// The path by which the command is executed inside.
fn executable_path(request: &Request<'_>, files: &Files) -> Result<String, PlanError> {
    let command = request.arguments.first().cloned().unwrap_or_default();
    let Some(program) = request.program else {
        return Err(PlanError::NotFound(command));
    };
    if !may_execute(files, program.place.path()) {
        let edit = if command.contains('/') {
            program.place.named.clone()
        } else {
            command.clone()
        };
        return Err(PlanError::NotAllowed { command, edit });
    }
    if let Some((interpreter, place)) = &program.interpreter
        && !place
            .as_ref()
            .is_some_and(|place| may_execute(files, place.path()))
    {
        return Err(PlanError::Interpreter {
            command,
            interpreter: interpreter.clone(),
        });
    }
    Ok(program.place.named.clone())
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

/// Who the agent is outside, and whether mounts translate.
fn identity(
    request: &Request<'_>,
    files: &Files,
    report: &mut Report,
) -> Result<(Identity, Option<steps::Idmap>), PlanError> {
    let facts = request.facts;
    let enforcement = &request.policy.policy().enforcement;
    let person = &facts.person;
    let (uid, gid) = (person.uid, person.gid);
    let inside = |id: u32| if id == 0 { INSIDE_WHEN_ROOT } else { id };
    if !facts.privileged {
        report.add(
            enforcement,
            Mechanism::Identity,
            format!("the agent is user {uid} with no capability; its files are that user's"),
            Vec::new(),
            Extent::Fully,
        )?;
        if facts.supplementary_groups {
            report.note(
                "supplementary groups stay with the agent: without privilege they cannot be dropped",
            );
        }
        let identity = Identity {
            inside_uid: inside(uid),
            inside_gid: inside(gid),
            outside_uid: uid,
            outside_gid: gid,
            drop_groups: false,
        };
        return Ok((identity, None));
    }
    let unmappable = files
        .trees
        .iter()
        .filter(|tree| maps_ids(request, tree))
        .find(|tree| !facts.can_map_ids(tree.place.path()));
    if let Some(tree) = unmappable {
        if uid == 0 {
            return Err(PlanError::NoIdmap {
                path: tree.place.path().to_owned(),
            });
        }
        report.add(
            enforcement,
            Mechanism::Identity,
            format!(
                "the agent is user {uid} itself: `{}` cannot map ids",
                tree.place.path()
            ),
            Vec::new(),
            Extent::Fully,
        )?;
        let identity = Identity {
            inside_uid: inside(uid),
            inside_gid: inside(gid),
            outside_uid: uid,
            outside_gid: gid,
            drop_groups: true,
        };
        return Ok((identity, None));
    }
    let agent = FIRST_AGENT_ID.saturating_add(request.supervisor);
    report.add(
        enforcement,
        Mechanism::Identity,
        format!("the agent is user {agent}, nobody on this host; mounts show its files as those of user {uid}"),
        Vec::new(),
        Extent::Fully,
    )?;
    if let Some(place) = &request.places.working_directory
        && let Some(owner) = facts.owner_of(place.path())
        && owner != uid
    {
        report.note(format!(
            "`{}` belongs to user {owner} and you are user {uid}: the agent may be unable to write there",
            place.path()
        ));
    }
    let identity = Identity {
        inside_uid: inside(uid),
        inside_gid: inside(gid),
        outside_uid: agent,
        outside_gid: agent,
        drop_groups: true,
    };
    let mapped = files
        .trees
        .iter()
        .filter(|tree| maps_ids(request, tree))
        .map(|tree| tree.place.path().to_owned())
        .collect();
    let idmap = steps::Idmap {
        person_uid: uid,
        person_gid: gid,
        mapped,
    };
    Ok((identity, Some(idmap)))
}

/// What is the person's: what the agent may write and what lies in the person's
/// home or working directory. The system's own files keep their owners, so that
/// its permissions go on to hold.
fn maps_ids(request: &Request<'_>, tree: &trees::Tree) -> bool {
    let path = tree.place.path();
    let home = &request.facts.person.home;
    let in_home = home != "/" && is_within(path, home);
    let working_directory = request.places.working_directory.as_ref();
    let in_workdir = working_directory.is_some_and(|place| is_within(path, place.path()));
    !tree.attributes.read_only || in_home || in_workdir
}

fn landlock(
    compiled: &Compiled,
    enforcement: &Enforcement,
    facts: &HostFacts,
    files: &Files,
    report: &mut Report,
) -> Result<Option<LandlockRules>, PlanError> {
    let abi = facts.landlock_abi;
    let mut lacks = Vec::new();
    for (needs, what) in [
        (1, "files are held by mounts alone"),
        (2, "files cannot be moved between directories"),
        (3, "truncation is held by mounts alone"),
    ] {
        if abi < needs {
            let have = if abi == 0 {
                "no Landlock".to_owned()
            } else {
                format!("Landlock ABI {abi}")
            };
            lacks.push(Lack::new(
                format!("this kernel offers {have}, not ABI {needs}: {what}"),
                "use Linux 6.2 or newer with `landlock` among the security modules (`lsm=`)",
            ));
            break;
        }
    }
    let extent = match (abi, lacks.is_empty()) {
        (0, _) => Extent::Not,
        (_, false) => Extent::Partly,
        (_, true) => Extent::Fully,
    };
    let mut detail = format!("ABI {abi}, {} paths", files.rights.len());
    if abi >= 6 {
        detail.push_str(", signals and abstract sockets scoped");
    }
    if abi == 0 {
        detail = "none".into();
    }
    report.add(enforcement, Mechanism::Landlock, detail, lacks, extent)?;
    if abi == 0 {
        return Ok(None);
    }
    let handled = FileRights::of_abi(abi);
    let mut rules: Vec<PathRights> = files
        .rights
        .iter()
        .map(|(path, rights)| (path.clone(), *rights))
        .chain(private_rights(compiled))
        .map(|(path, rights)| PathRights {
            path,
            rights: rights & handled,
        })
        .filter(|rule| !rule.rights.is_empty())
        .collect();
    rules.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(LandlockRules {
        abi,
        handled,
        // The network namespace leaves nothing but loopback, where the agent's own
        // servers are its own matter.
        handle_tcp: false,
        connect_ports: Vec::new(),
        scoped: abi >= 6,
        log_denials: abi >= 7,
        rules,
    }))
}

/// Rights on what the sandbox itself makes.
fn private_rights(compiled: &Compiled) -> Vec<(String, FileRights)> {
    let mut private = Vec::new();
    for rule in compiled.grants.iter().filter(|rule| rule.private) {
        let path = rule.pattern.anchor.as_str();
        let directory = steps::is_private_directory(path);
        let kind = if directory {
            Kind::Directory
        } else {
            Kind::File
        };
        let mut rights = trees::rights(rule.access, kind);
        if path.starts_with("/dev/") && path != "/dev/shm" {
            rights |= FileRights::IOCTL_DEVICE;
        }
        private.push((path.to_owned(), rights));
    }
    private
}

fn seccomp(
    enforcement: &Enforcement,
    facts: &HostFacts,
    report: &mut Report,
) -> Result<Option<(Filter, bool)>, PlanError> {
    let remedy = "use Linux 5.0 or newer built with CONFIG_SECCOMP_FILTER; inside a container, \
                  allow the seccomp call";
    if !facts.seccomp.filter {
        let lack = Lack::new("this kernel does not take system-call filters", remedy);
        report.add(
            enforcement,
            Mechanism::Seccomp,
            "none",
            vec![lack],
            Extent::Not,
        )?;
        return Ok(None);
    }
    let action = if facts.seccomp.notify {
        RefusalAction::Notify
    } else {
        RefusalAction::Errno
    };
    let architecture = facts.architecture.ok_or(PlanError::Architecture)?;
    let filter = Profile::parse(Profile::AGENT)?.compile(architecture, action)?;
    let lacks = match action {
        RefusalAction::Notify => Vec::new(),
        RefusalAction::Errno => vec![Lack::new("refused calls are not reported", remedy)],
    };
    let extent = if lacks.is_empty() {
        Extent::Fully
    } else {
        Extent::Partly
    };
    let detail = format!(
        "profile `{}`: {} calls allowed, {} by argument, the rest refused{}",
        filter.profile,
        filter.counts.allowed,
        filter.counts.conditional,
        if lacks.is_empty() {
            " and recorded"
        } else {
            ""
        },
    );
    report.add(enforcement, Mechanism::Seccomp, detail, lacks, extent)?;
    Ok(Some((filter, facts.seccomp.wait_killable)))
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
