//! The parent's half of a launch.
//!
//! ```text
//! prepare ─> Prepared ─ start ─> Entered ─ go ─> Running
//!            cgroup              namespaces      the command
//! ```
//!
//! Each phase is a type and owns what it made: dropping one ends the processes
//! and removes the cgroup. As `go` consumes [`Entered`], no command can run
//! before what belongs between the two is done.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SealFlags};

use crate::cgroup::{self, Applied, Cgroup, Layout, Missing};
use crate::channel::{self, Message};
use crate::plan::{LaunchPlan, Namespace, Step};

/// Longest time that one step may take; a stuck network file system ends here.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no running agent. Nothing of the attempt is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A limit's group could not be made.
    #[error("could not set limits")]
    Cgroup(#[from] cgroup::CgroupError),
    /// Limits that the plan requires cannot be set here.
    #[error("could not set the limits that are required{}", listed(.0))]
    Limits(Vec<Missing>),
    /// `nemoclaw-init` could not be started or spoken to.
    #[error("could not {doing}")]
    Init {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A step of the plan failed.
    #[error("step {number} of {total} failed: {step}")]
    Step {
        /// Counted from 1.
        number: usize,
        /// Steps in the plan.
        total: usize,
        /// The step in words.
        step: String,
        /// Whether it was the execution of the command.
        executing: bool,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `nemoclaw-init` ended without a word.
    #[error("nemoclaw-init ended before the command ran")]
    Ended,
    /// A step did not come back in time.
    #[error("nemoclaw-init did not finish a step within {} seconds", STEP_TIMEOUT.as_secs())]
    TimedOut,
}

impl LaunchError {
    /// The exit status that env(1), nohup(1) and shells give for such a failure:
    /// 127 not found, 126 found and not executable, 125 the launcher itself.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Step {
                executing: true,
                source,
                ..
            } => match source.kind() {
                io::ErrorKind::NotFound => 127,
                _ => 126,
            },
            _ => 125,
        }
    }
}

fn listed(missing: &[Missing]) -> String {
    missing
        .iter()
        .map(|missing| {
            format!(
                "\n  {}: {}\n    remedy: {}",
                missing.limit, missing.why, missing.remedy
            )
        })
        .collect()
}

fn while_doing(doing: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::Init { doing, source }
}

/// A program that was opened once and is started by descriptor, so that a file
/// swapped on disk later is never run.
#[derive(Debug)]
pub struct PinnedProgram(OwnedFd);

impl PinnedProgram {
    /// Opens the file.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(file))
    }

    /// Another descriptor of it, to be passed to a [`Prepared`] and executed.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

/// What the command gets as standard input, output and error.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct StandardStreams {
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub error: OwnedFd,
}

impl StandardStreams {
    /// Copies of the caller's own.
    ///
    /// # Errors
    /// When one is closed, descriptors have run out, or one is a directory: that lies in the host's mounts, so what is
    /// beneath it could be reached past the mounts of the sandbox (openat(2)).
    pub fn inherit() -> io::Result<Self> {
        let copy = |name: &str, stream: BorrowedFd<'_>| {
            let status = rustix::fs::fstat(stream)?;
            if FileType::from_raw_mode(status.st_mode).is_dir() {
                return Err(io::Error::other(format!(
                    "standard {name} is a directory, by which an agent could reach past its mounts"
                )));
            }
            stream.try_clone_to_owned()
        };
        Ok(Self {
            input: copy("input", io::stdin().as_fd())?,
            output: copy("output", io::stdout().as_fd())?,
            error: copy("error", io::stderr().as_fd())?,
        })
    }
}

/// The host's side is ready; nothing runs.
#[derive(Debug)]
pub struct Prepared {
    plan: LaunchPlan,
    cgroup: Option<Cgroup>,
    /// Limits that hold.
    pub applied: Vec<Applied>,
    /// Limits that this host cannot give.
    pub missing: Vec<Missing>,
}

/// Makes the host's side of a plan: the cgroup with its limits.
///
/// # Errors
/// When the plan wants a group and none can be made, or requires a limit that cannot be set.
pub fn prepare(plan: LaunchPlan, layout: &Layout) -> Result<Prepared, LaunchError> {
    let (cgroup, applied, missing) = match &plan.cgroup {
        None => (None, Vec::new(), Vec::new()),
        Some(wanted) => {
            let (cgroup, applied, missing) = Cgroup::create(wanted, layout)?;
            if wanted.required && !missing.is_empty() {
                return Err(LaunchError::Limits(missing));
            }
            (Some(cgroup), applied, missing)
        }
    };
    Ok(Prepared {
        plan,
        cgroup,
        applied,
        missing,
    })
}

impl Prepared {
    /// Starts `nemoclaw-init` and lets it come as far as its new namespaces.
    ///
    /// Call it from a thread that lives as long as the agent may: the kernel
    /// kills the agent when the thread that started it ends (prctl(2),
    /// `PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// The step that failed, with the kernel's answer.
    pub fn start(
        self,
        init: &PinnedProgram,
        streams: &StandardStreams,
        passed: &[BorrowedFd<'_>],
    ) -> Result<Entered, LaunchError> {
        let (ours, theirs) = channel::pair().map_err(while_doing("make a channel"))?;
        let (lifeline, their_lifeline) = channel::pair().map_err(while_doing("make a channel"))?;
        let plan = memory_file(&self.plan).map_err(while_doing("write down the plan"))?;
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&init.0));
        let child = Command::new(path)
            .arg0("nemoclaw-init")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Of its own, so that a key that means a signal reaches the supervisor alone, which passes it on.
            .process_group(0)
            .spawn()
            .map_err(while_doing("start nemoclaw-init"))?;
        let mut agent = Processes {
            plan: self.plan,
            channel: ours,
            child,
            cgroup: self.cgroup,
            handed: Handed::default(),
        };
        if let Some(cgroup) = &agent.cgroup {
            cgroup.attach(agent.child.id())?;
        }
        let mut descriptors = vec![
            plan.as_fd(),
            their_lifeline.as_fd(),
            streams.input.as_fd(),
            streams.output.as_fd(),
            streams.error.as_fd(),
        ];
        descriptors.extend_from_slice(passed);
        channel::send(&agent.channel, Message::Plan, &descriptors)
            .map_err(while_doing("hand over the plan"))?;
        drop(their_lifeline);
        if agent.plan.steps.contains(&Step::AwaitMaps) {
            agent.until(Message::Entered)?;
        }
        Ok(Entered { agent, lifeline })
    }
}

/// Everything that stands for a sandbox and must go with it. Fields are dropped
/// after [`Drop::drop`] has ended the processes, the cgroup among them.
#[derive(Debug)]
struct Processes {
    plan: LaunchPlan,
    channel: OwnedFd,
    child: Child,
    cgroup: Option<Cgroup>,
    handed: Handed,
}

/// Descriptors that steps made inside and handed out.
#[derive(Debug, Default)]
struct Handed {
    listeners: Vec<(usize, OwnedFd)>,
    terminal: Option<OwnedFd>,
    refusals: Option<OwnedFd>,
}

impl Processes {
    /// Takes messages until the one that is waited for.
    fn until(&mut self, wanted: Message) -> Result<(), LaunchError> {
        loop {
            let (message, mut descriptors) = match self.next()? {
                Some(received) => received,
                None => return Err(LaunchError::Ended),
            };
            match message {
                Message::Failed { step, errno } => return Err(self.failure(step, errno)),
                Message::Listening { step } => {
                    let listeners = descriptors.drain(..).map(|fd| (step as usize, fd));
                    self.handed.listeners.extend(listeners);
                }
                Message::Terminal => self.handed.terminal = descriptors.pop(),
                Message::Refusals => self.handed.refusals = descriptors.pop(),
                other if other == wanted => return Ok(()),
                _ => {
                    let source = io::ErrorKind::InvalidData.into();
                    return Err(while_doing("understand nemoclaw-init")(source));
                }
            }
        }
    }

    fn next(&self) -> Result<Option<(Message, Vec<OwnedFd>)>, LaunchError> {
        let listening = while_doing("listen to nemoclaw-init");
        if !readable(self.channel.as_fd(), STEP_TIMEOUT).map_err(&listening)? {
            return Err(LaunchError::TimedOut);
        }
        channel::receive(&self.channel).map_err(listening)
    }

    fn failure(&self, step: u32, errno: i32) -> LaunchError {
        let index = step as usize;
        let failed = self.plan.steps.get(index);
        LaunchError::Step {
            number: index + 1,
            total: self.plan.steps.len(),
            step: failed.map(ToString::to_string).unwrap_or_default(),
            executing: matches!(failed, Some(Step::Execute(_))),
            source: io::Error::from_raw_os_error(errno),
        }
    }

    fn write_maps(&self) -> io::Result<()> {
        let id = &self.plan.identity;
        let directory = format!("/proc/{}", self.child.id());
        if !id.drop_groups {
            // The kernel's condition for a group map by the unprivileged
            // (user_namespaces(7), "the setgroups file").
            fs::write(format!("{directory}/setgroups"), "deny")?;
        }
        fs::write(
            format!("{directory}/gid_map"),
            format!("{} {} 1", id.inside_gid, id.outside_gid),
        )?;
        fs::write(
            format!("{directory}/uid_map"),
            format!("{} {} 1", id.inside_uid, id.outside_uid),
        )
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            // Best effort here: the pid namespace ends them all below.
            let _ = cgroup.kill();
        }
        // The outer process; the kernel then kills process 1 and all with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The namespaces exist and nothing has been executed.
#[derive(Debug)]
pub struct Entered {
    agent: Processes,
    lifeline: OwnedFd,
}

impl Entered {
    /// Writes the id maps and lets the rest of the plan run, up to the exec.
    ///
    /// # Errors
    /// The step that failed, with the kernel's answer.
    pub fn go(mut self) -> Result<Running, LaunchError> {
        let namespaced = self.agent.plan.steps.iter().any(|step| {
            matches!(step, Step::Unshare { namespaces } if namespaces.contains(&Namespace::User))
        });
        if self.agent.plan.steps.contains(&Step::AwaitMaps) {
            if namespaced {
                let index = self
                    .agent
                    .plan
                    .steps
                    .iter()
                    .position(|step| *step == Step::AwaitMaps);
                let index = u32::try_from(index.unwrap_or(0)).unwrap_or(0);
                self.agent.write_maps().map_err(|error| {
                    self.agent.failure(index, error.raw_os_error().unwrap_or(0))
                })?;
            }
            channel::send(&self.agent.channel, Message::Go, &[])
                .map_err(while_doing("let nemoclaw-init go on"))?;
        }
        self.agent.until(Message::Executing)?;
        // Closed by the exec; a failure to execute comes before that.
        match self.agent.next()? {
            None => {}
            Some((Message::Failed { step, errno }, _)) => {
                return Err(self.agent.failure(step, errno));
            }
            Some(_) => return Err(LaunchError::Ended),
        }
        Ok(Running {
            agent: self.agent,
            lifeline: self.lifeline,
        })
    }
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this status.
    Exited(u8),
    /// This signal ended it.
    Signalled(i32),
    /// Process 1 of the sandbox was ended from outside, and the agent with it.
    Killed,
}

impl Ending {
    /// The status to exit with: the command's own, or 128 and the signal.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Signalled(signal) => u8::try_from(128 + signal).unwrap_or(255),
            Self::Killed => 137,
        }
    }
}

/// The command runs. Dropping this ends it and everything it started.
#[derive(Debug)]
pub struct Running {
    agent: Processes,
    lifeline: OwnedFd,
}

impl Running {
    /// Process id of `nemoclaw-init`'s outer half, as this process sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.agent.child.id()
    }

    /// Becomes readable when the command has ended.
    #[must_use]
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.lifeline.as_fd()
    }

    /// Takes the listening sockets, in the order of the plan's `Listen` steps.
    pub fn take_listeners(&mut self) -> Vec<OwnedFd> {
        self.agent.handed.listeners.sort_by_key(|(step, _)| *step);
        self.agent
            .handed
            .listeners
            .drain(..)
            .map(|(_, fd)| fd)
            .collect()
    }

    /// Takes the master of the command's terminal.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.agent.handed.terminal.take()
    }

    /// Takes the listener for refused system calls (seccomp_unotify(2)).
    pub fn take_refusals(&mut self) -> Option<OwnedFd> {
        self.agent.handed.refusals.take()
    }

    /// The agent's cgroup, if it has one.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.agent.cgroup.as_ref()
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// When process 1 of the sandbox is gone.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        channel::send(&self.lifeline, Message::Signal(signal), &[])
    }

    /// Ends the command and everything it started.
    pub fn kill(&mut self) {
        if let Some(cgroup) = &self.agent.cgroup {
            let _ = cgroup.kill();
        }
        let _ = self.agent.child.kill();
    }

    /// Waits for the command, then for everything else in the sandbox to be gone.
    ///
    /// # Errors
    /// Those of recvmsg(2) and wait(2).
    pub fn wait(&mut self) -> io::Result<Ending> {
        let ending = match channel::receive(&self.lifeline)? {
            Some((Message::Ended(status), _)) if libc::WIFSIGNALED(status) => {
                Ending::Signalled(libc::WTERMSIG(status))
            }
            Some((Message::Ended(status), _)) => {
                Ending::Exited(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
            }
            _ => Ending::Killed,
        };
        // The outer half ends after process 1, which ends after all others.
        self.agent.child.wait()?;
        Ok(ending)
    }
}

/// The plan as a sealed file in memory, however large.
fn memory_file(plan: &LaunchPlan) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(
        "nemoclaw-plan",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    let mut file = fs::File::from(memory);
    file.write_all(&serde_json::to_vec(plan)?)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}

fn readable(descriptor: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut waiting = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut waiting, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}
