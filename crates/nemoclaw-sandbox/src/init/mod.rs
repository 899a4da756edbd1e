//! The child's half: the program `nemoclaw-init`.
//!
//! It runs single-threaded and makes no decision: it does each step of the plan
//! or reports which one failed. No logging, no lookups, no fallbacks.
//!
//! ```text
//! supervisor ── spawns ──> outer ── BecomeInit ──> init (process 1) ── Execute ──> the command
//!                          waits for 1             reaps, passes signals on
//! ```
//!
//! Two sockets lead to the supervisor. The *channel* carries the set-up and
//! closes when the command is executed, which is how the supervisor learns of
//! it; so every process but the one that executes must drop its copy. The
//! *lifeline* stays with process 1: when it hangs up, the supervisor is gone and
//! process 1 exits, with which the kernel ends everything in the pid namespace.

mod capabilities;
mod landlock;
mod mounts;
mod namespaces;
mod network;
mod process;
mod terminal;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use crate::channel::{self, Message};
use crate::plan::{LaunchPlan, Resource, ResourceLimit, Step};
use crate::seccomp::Install;

/// Descriptors that come with the plan, before those that the plan names.
///
/// The order is that of [`crate::launch`]: plan, lifeline, standard three.
const FIXED_DESCRIPTORS: usize = 5;

/// What steps hand to later steps.
struct State {
    channel: OwnedFd,
    lifeline: OwnedFd,
    /// Standard input, output and error of the command.
    stdio: [OwnedFd; 3],
    /// Further descriptors that the supervisor passes to the command.
    passed: Vec<OwnedFd>,
    identity: crate::plan::Identity,
    trees: mounts::Trees,
    terminal: Option<OwnedFd>,
}

/// Runs the plan that comes through standard input; returns the exit status for
/// the case that there is nothing to execute.
#[must_use]
pub fn main() -> i32 {
    // It was executed by descriptor, so the kernel named it by a number.
    let _ = rustix::thread::set_name(c"nemoclaw-init");
    // Nothing can be told to anybody where this fails: the channel is the only way.
    let Ok((mut state, plan)) = receive_plan() else {
        return 125;
    };
    for (index, step) in (0..).zip(&plan.steps) {
        if let Err(error) = run(step, index, &mut state) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            // If the supervisor is gone, so is the reason to report.
            let _ = channel::send(&state.channel, Message::Failed { step: index, errno }, &[]);
            return 125;
        }
    }
    0
}

fn receive_plan() -> io::Result<(State, LaunchPlan)> {
    // Standard input becomes the command's; the channel must not be in its place.
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    let Some((Message::Plan, mut descriptors)) = channel::receive(&channel)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if descriptors.len() < FIXED_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let passed = descriptors.split_off(FIXED_DESCRIPTORS);
    let [plan, lifeline, stdin, stdout, stderr] =
        <[OwnedFd; FIXED_DESCRIPTORS]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut text = Vec::new();
    File::from(plan).read_to_end(&mut text)?;
    let plan: LaunchPlan = serde_json::from_slice(&text)?;
    let state = State {
        channel,
        lifeline,
        stdio: [stdin, stdout, stderr],
        passed,
        identity: plan.identity,
        trees: mounts::Trees::default(),
        terminal: None,
    };
    Ok((state, plan))
}

fn run(step: &Step, index: u32, state: &mut State) -> io::Result<()> {
    match step {
        Step::DieWithSupervisor => process::die_with_parent(&state.lifeline),
        Step::IdmapNamespace {
            person_uid,
            person_gid,
            agent_uid,
            agent_gid,
        } => state
            .trees
            .make_idmap((*person_uid, *agent_uid), (*person_gid, *agent_gid)),
        Step::CloneTree {
            slot,
            source,
            idmapped,
        } => state.trees.clone_tree(*slot, source, *idmapped),
        Step::Unshare { namespaces } => namespaces::unshare(namespaces),
        Step::AwaitMaps => {
            channel::send(&state.channel, Message::Entered, &[])?;
            match channel::receive(&state.channel)? {
                Some((Message::Go, _)) => Ok(()),
                _ => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            }
        }
        Step::TakeIdentity => {
            namespaces::take_identity(&state.identity)?;
            // A change of ids clears the parent-death signal (prctl(2)).
            process::die_with_parent(&state.lifeline)
        }
        Step::ResetClocks => namespaces::reset_clocks(),
        Step::BecomeInit => process::become_init(state),
        Step::HostName(name) => Ok(nix::unistd::sethostname(name)?),
        Step::LoopbackUp => network::loopback_up(),
        Step::Listen { address, port } => {
            let socket = network::listen(*address, *port)?;
            channel::send(
                &state.channel,
                Message::Listening { step: index },
                &[socket.as_fd()],
            )
        }
        Step::NewRoot { size } => state.trees.new_root(*size),
        Step::MountProc => state.trees.mount_proc(),
        Step::PivotRoot => state.trees.pivot_root(),
        Step::Directory { path, mode } => mounts::make_directory(path, *mode),
        Step::Placeholder { path } => mounts::make_file(path, ""),
        Step::File { path, content } => mounts::make_file(path, content),
        Step::Symlink { path, target } => mounts::make_symlink(path, target),
        Step::Attach {
            slot,
            path,
            attributes,
        } => state.trees.attach(*slot, path, *attributes),
        Step::MountTmpfs {
            path,
            mode,
            size,
            attributes,
        } => mounts::mount_tmpfs(path, *mode, *size, *attributes),
        Step::MountPts => mounts::mount_pts(),
        Step::Rebind { path, attributes } => mounts::rebind(path, *attributes),
        Step::Mask { path, directory } => state.trees.mask(path, *directory),
        Step::SealMount { path } => mounts::seal(path),
        Step::Terminal { size } => {
            let (master, slave) = terminal::open(*size)?;
            state.terminal = Some(slave);
            channel::send(&state.channel, Message::Terminal, &[master.as_fd()])
        }
        Step::Limit(limit) => set_limit(limit),
        Step::DropCapabilities => capabilities::drop_all(),
        Step::NoNewPrivileges => Ok(rustix::thread::set_no_new_privs(true)?),
        Step::Landlock(rules) => landlock::restrict(rules),
        Step::Seccomp {
            filter,
            wait_killable,
        } => {
            let how = Install {
                wait_killable: *wait_killable,
            };
            if let Some(listener) = crate::seccomp::install(filter, how)? {
                channel::send(&state.channel, Message::Refusals, &[listener.as_fd()])?;
            }
            Ok(())
        }
        Step::Execute(command) => process::execute(command, state),
        Step::Fail(errno) => Err(io::Error::from_raw_os_error(*errno)),
    }
}

fn set_limit(limit: &ResourceLimit) -> io::Result<()> {
    use nix::sys::resource::{Resource as Kernel, setrlimit};
    let resource = match limit.resource {
        Resource::Core => Kernel::RLIMIT_CORE,
        Resource::OpenFiles => Kernel::RLIMIT_NOFILE,
        Resource::Processes => Kernel::RLIMIT_NPROC,
        Resource::LockedMemory => Kernel::RLIMIT_MEMLOCK,
    };
    Ok(setrlimit(resource, limit.value, limit.value)?)
}
