//! From the command line to a plan: everything is read and looked up here, so that `plan` prints what `run` runs.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nemoclaw_egress::{Secret, Upstream, UpstreamUrl};
use nemoclaw_policy::{BoundPolicy, KeySource};
use nemoclaw_sandbox::plan::LaunchPlan;
use sha2::{Digest, Sha256};

use super::record::{Digests, Run};
use super::terminal;
use crate::facts::HostFacts;
use crate::places::{self, Executable, Wanted};
use crate::plan::worker::{self, Worker};
use crate::plan::{self, PlanError, Planned, Request};
use crate::policy_file;

/// The most bytes that a key's file may hold, and then some.
const KEY_FILE_BYTES: u64 = 64 * 1024;

/// What `plan` and `run` take.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The policy that decides what the agent may do
    #[arg(long, short, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// The agent: a program on its PATH or a path, and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

/// The policy and the host as they were found.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) policy: BoundPolicy,
    pub(crate) facts: HostFacts,
    pub(crate) run: Run,
    /// The audit log.
    pub(crate) log: PathBuf,
    pub(crate) command: Vec<String>,
    pub(crate) terminals: [bool; 3],
    pub(crate) programs: Programs,
    policy_path: PathBuf,
    policy_digest: String,
    key_file: Option<PathBuf>,
    /// Device and inode of the current directory, where that is the agent's too: its name may lead elsewhere soon.
    current: Option<(u64, u64)>,
}

/// Our own programs, which stand beside the one that runs.
#[derive(Debug)]
pub(crate) struct Programs {
    supervisor: PathBuf,
    pub(crate) init: PathBuf,
    pub(crate) egress: PathBuf,
}

/// What will run.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) agent: Planned,
    /// The worker that serves the model socket, where the policy names a model.
    pub(crate) worker: Option<LaunchPlan>,
    pub(crate) digests: Digests,
}

impl Known {
    /// Reads the policy and learns about the host.
    ///
    /// # Errors
    /// Whatever cannot be read, with its place and remedy.
    pub(crate) fn learn(arguments: &Arguments) -> anyhow::Result<Self> {
        let (policy, text) = policy_file::load(&arguments.policy)?;
        let mut facts = HostFacts::probe_quick()?;
        let current = std::env::current_dir().context("could not find the current directory")?;
        let policy = policy_file::bind(&policy, &current, &facts.person)?;
        facts.look_at(policy.workdir.as_str());
        let name = policy.policy().name.as_str().to_owned();
        let log = match &policy.audit_path {
            Some(directory) => Path::new(directory.as_str()).join(nemoclaw_audit::log_name(&name)),
            None => nemoclaw_audit::default_path(
                &name,
                facts.uid == 0,
                std::env::var_os("XDG_STATE_HOME").as_deref().map(Path::new),
                Path::new(&facts.person.home),
            ),
        };
        let on_behalf_of = policy.policy().identity.on_behalf_of.clone();
        let run = Run {
            id: run_id()?,
            agent: name,
            on_behalf_of: on_behalf_of.unwrap_or_else(|| facts.person.name.clone()),
        };
        let key_file = match policy
            .policy()
            .models
            .upstream
            .as_ref()
            .and_then(|it| it.key.as_ref())
        {
            Some(KeySource::File { path }) => Some(from_home(path, policy.home.as_str())),
            _ => None,
        };
        let here = policy.policy().workdir.path == ".";
        let current = here
            .then(|| std::fs::metadata("."))
            .transpose()
            .context("could not look at the current directory")?
            .map(|status| (status.dev(), status.ino()));
        let policy_path = std::path::absolute(&arguments.policy)
            .with_context(|| format!("could not make `{}` absolute", arguments.policy.display()))?;
        Ok(Self {
            policy,
            facts,
            run,
            log,
            command: arguments.command.clone(),
            terminals: terminal::standard_terminals(),
            programs: Programs::find()?,
            policy_path,
            policy_digest: digest(text.as_bytes()),
            key_file,
            current,
        })
    }

    /// Plans the agent and its worker.
    ///
    /// # Errors
    /// A [`PlanError`], or what cannot be looked up.
    pub(crate) fn plan(&self) -> anyhow::Result<Ready> {
        let directories = &self.policy.path_directories;
        let guarded = [
            &self.policy_path,
            &self.programs.supervisor,
            &self.programs.init,
            &self.programs.egress,
        ]
        .map(|path| path.to_string_lossy().into_owned());
        let log_directory = self.log.parent().unwrap_or(Path::new("/"));
        let hidden: Vec<String> = std::iter::once(log_directory)
            .chain(self.key_file.as_deref())
            .map(|path| path.to_string_lossy().into_owned())
            .collect();
        let wanted = Wanted {
            working_directory: self.policy.workdir.as_str(),
            path_directories: directories,
            guarded: &guarded,
            hidden: &hidden,
        };
        let places = places::locate(&self.policy.compile(), &wanted)?;
        if let (Some(current), Some(found)) = (self.current, &places.working_directory) {
            anyhow::ensure!(
                current == (found.source.device, found.source.inode),
                "`{}` is no longer the current directory: something moved it while it was looked up; start again from it",
                self.policy.workdir
            );
        }
        let program = self.program(directories)?;
        let passed = self.passed()?;
        let agent = plan::plan(&Request {
            policy: &self.policy,
            facts: &self.facts,
            places: &places,
            arguments: &self.command,
            program: program.as_ref(),
            terminal: self.terminals,
            terminal_size: terminal::size(),
            passed: &passed,
            supervisor: std::process::id(),
            run: &cgroup_name(&self.run),
        })?;
        let worker = match self.upstream_url()? {
            None => None,
            Some(url) => {
                let files = places::existing(&worker::FILES)?;
                let path = self.programs.egress.to_string_lossy();
                let program = places::follow(&path)?.ok_or_else(|| {
                    anyhow::anyhow!("`nemoclaw-egress` must stand beside `nemoclaw-supervisor`: there is no `{path}`")
                })?;
                let worker = Worker {
                    facts: &self.facts,
                    agent: &self.run.agent,
                    program: &program,
                    files: &files,
                    loaders: &places.loaders,
                    port: url.port(),
                    supervisor: std::process::id(),
                };
                Some(worker.plan()?)
            }
        };
        let digests = Digests {
            policy_path: self.policy_path.to_string_lossy().into_owned(),
            policy: self.policy_digest.clone(),
            plan: digest(&serde_json::to_vec(&agent.launch)?),
        };
        Ok(Ready {
            agent,
            worker,
            digests,
        })
    }

    /// Where model requests go, with the real key; read as late as can be, and given to the worker only.
    ///
    /// # Errors
    /// When the key is not where the policy says, or is none.
    pub(crate) fn upstream(&self) -> anyhow::Result<Option<Upstream>> {
        let Some(url) = self.upstream_url()? else {
            return Ok(None);
        };
        let source = self
            .policy
            .policy()
            .models
            .upstream
            .as_ref()
            .and_then(|it| it.key.as_ref());
        let key = match (source, &self.key_file) {
            (None, _) => None,
            (Some(KeySource::Env { name }), _) => {
                let text = std::env::var(name).with_context(|| {
                    format!(
                        "the model's key is to come from the variable `{name}`, which is not set; \
                             set it, or change `models.upstream.key` in the policy"
                    )
                })?;
                Some(secret(text, &format!("the variable `{name}`"))?)
            }
            (Some(KeySource::File { .. }), None) => None,
            (Some(KeySource::File { .. }), Some(path)) => {
                let text = read_key(path).with_context(|| {
                    format!("could not read the model's key from `{}`", path.display())
                })?;
                Some(secret(text, &format!("`{}`", path.display()))?)
            }
        };
        Ok(Some(Upstream { url, key }))
    }

    fn upstream_url(&self) -> anyhow::Result<Option<UpstreamUrl>> {
        let Some(upstream) = &self.policy.policy().models.upstream else {
            return Ok(None);
        };
        let url = UpstreamUrl::try_from(upstream.url.as_str())
            .with_context(|| format!("`models.upstream.url` is `{}`", upstream.url))?;
        Ok(Some(url))
    }

    /// What the command's first word leads to on the host.
    fn program(&self, directories: &[String]) -> anyhow::Result<Option<Executable>> {
        let Some(word) = self.command.first() else {
            return Ok(None);
        };
        if !word.contains('/') {
            return Ok(places::find_program(word, directories)?.into_iter().next());
        }
        // The name stays as it was typed, for a program may look at its own; what leads to it does not.
        let path = Path::new(self.policy.workdir.as_str()).join(word);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(PlanError::NotFound(word.clone()).into());
        };
        let Ok(parent) = parent.canonicalize() else {
            return Err(PlanError::NotFound(word.clone()).into());
        };
        let path = parent.join(name).to_string_lossy().into_owned();
        match places::executable(&path)? {
            None if places::follow(&path)?.is_some() => {
                Err(PlanError::NotExecutable(word.clone()).into())
            }
            found => Ok(found),
        }
    }

    /// The caller's variables that the policy passes.
    fn passed(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut passed = Vec::new();
        for name in &self.policy.policy().environment.pass {
            match std::env::var(name) {
                Ok(value) => passed.push((name.clone(), value)),
                Err(std::env::VarError::NotPresent) => {}
                Err(std::env::VarError::NotUnicode(_)) => {
                    anyhow::bail!(
                        "the variable `{name}`, which the policy passes, is not UTF-8; set it anew"
                    )
                }
            }
        }
        Ok(passed)
    }
}

impl Programs {
    fn find() -> anyhow::Result<Self> {
        let supervisor = std::env::current_exe()
            .context("could not find this program's own file; is `/proc` mounted?")?;
        Ok(Self {
            init: supervisor.with_file_name("nemoclaw-init"),
            egress: supervisor.with_file_name("nemoclaw-egress"),
            supervisor,
        })
    }
}

/// Sixteen hexadecimal digits that no other run has.
fn run_id() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("could not get a random number")?;
    anyhow::ensure!(filled == bytes.len(), "could not get a whole random number");
    Ok(hexadecimal(&bytes))
}

/// A cgroup's name has no dots, and neither end of the agent's name may be lost.
fn cgroup_name(run: &Run) -> String {
    format!("{}-{}", run.agent.replace('.', "_"), run.id)
}

fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_home(path: &str, home: &str) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => Path::new(home).join(rest),
        None => PathBuf::from(path),
    }
}

fn read_key(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    // A pipe would keep us waiting for a writer, and signals wait for us.
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    file.take(KEY_FILE_BYTES).read_to_string(&mut text)?;
    // Editors end a file with a line break; everything else is told as wrong.
    let end = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(end);
    Ok(text)
}

fn secret(text: String, from: &str) -> anyhow::Result<Secret> {
    Secret::try_from(text).with_context(|| format!("{from} holds no key that could be sent"))
}
