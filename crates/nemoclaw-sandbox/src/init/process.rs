//! Processes: the fork into the pid namespace, process 1's duties, and the exec.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    DumpableBehavior, Pid, Signal as KernelSignal, WaitOptions, kill_process, kill_process_group,
    set_dumpable_behavior, set_parent_process_death_signal, setsid, wait, waitpid,
};

use super::State;
use crate::channel::{self, Message};
use crate::plan::{Command, Program};

/// Asks for SIGKILL when the parent dies, and makes sure that it has not died
/// before the question: the lifeline would have hung up.
pub(super) fn die_with_parent(lifeline: &OwnedFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(KernelSignal::KILL))?;
    let mut poll_fd = [PollFd::new(lifeline, PollFlags::empty())];
    poll(&mut poll_fd, Some(&rustix::event::Timespec::default()))?;
    if poll_fd[0]
        .revents()
        .intersects(PollFlags::HUP | PollFlags::ERR)
    {
        return Err(io::Error::from_raw_os_error(libc::ECANCELED));
    }
    Ok(())
}

/// Forks into the new pid namespace and returns in process 1 only.
pub(super) fn become_init(state: &State) -> io::Result<()> {
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            die_with_parent(&state.lifeline)?;
            // Neither its memory nor its descriptors are for the agent, which has
            // the same user id (ptrace(2), "ptrace access mode checking").
            set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
            Ok(())
        }
        ForkResult::Parent { child } => {
            // Among them the channel: its closing tells the supervisor of the exec.
            close_from(0);
            let _ = super::capabilities::drop_all();
            let child = Pid::from_raw(child.as_raw());
            loop {
                match waitpid(child, WaitOptions::empty()) {
                    Err(rustix::io::Errno::INTR) => {}
                    Ok(Some((_, status))) => {
                        std::process::exit(status.exit_status().unwrap_or(125));
                    }
                    Ok(None) | Err(_) => std::process::exit(125),
                }
            }
        }
    }
}

/// Starts the command; in process 1 it does not return but looks after the
/// agent's processes until the command ends or the supervisor is gone.
pub(super) fn execute(command: &Command, state: &mut State) -> io::Result<()> {
    let prepared = Prepared::new(command)?;
    SigSet::all().thread_block()?;
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => Err(exec(command, &prepared, state)),
        ForkResult::Parent { child } => {
            let agent = Pid::from_raw(child.as_raw())
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
            // The lifeline becomes standard input, everything else is closed.
            rustix::stdio::dup2_stdin(&state.lifeline)?;
            close_from(1);
            look_after(agent)
        }
    }
}

/// Process 1's loop. It ends by exiting, whereupon the kernel kills what is left
/// in the namespace.
fn look_after(agent: Pid) -> ! {
    let stdin = io::stdin();
    let lifeline = stdin.as_fd();
    let children = SignalFd::with_flags(
        &SigSet::from(Signal::SIGCHLD),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    );
    let Ok(children) = children else {
        std::process::exit(125)
    };
    loop {
        let mut waiting = [
            PollFd::new(&lifeline, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        match poll(&mut waiting, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => std::process::exit(125),
        }
        let [from_supervisor, from_children] = waiting.map(|entry| entry.revents());
        if !from_children.is_empty() {
            while let Ok(Some(_)) = children.read_signal() {}
            reap(agent, lifeline);
        }
        if !from_supervisor.is_empty() {
            match channel::receive(lifeline) {
                Ok(Some((Message::Signal(signal), _))) => pass_on(agent, signal),
                _ => std::process::exit(125),
            }
        }
    }
}

fn reap(agent: Pid, lifeline: BorrowedFd<'_>) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == agent {
            let _ = channel::send(lifeline, Message::Ended(status.as_raw()), &[]);
            std::process::exit(status.exit_status().unwrap_or(125));
        }
    }
}

/// To the whole process group, as a terminal would; to the process alone if it
/// left its group.
fn pass_on(agent: Pid, signal: i32) {
    if let Some(signal) = KernelSignal::from_named_raw(signal)
        && kill_process_group(agent, signal).is_err()
    {
        let _ = kill_process(agent, signal);
    }
}

/// What exec needs, allocated before the fork.
struct Prepared {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Prepared {
    fn new(command: &Command) -> io::Result<Self> {
        let path = match &command.program {
            Program::Path(path) => path.as_str(),
            Program::Descriptor(_) => "",
        };
        let strings = |texts: &[String]| -> io::Result<Vec<CString>> {
            let strings: Result<_, _> = texts.iter().map(|text| CString::new(&**text)).collect();
            Ok(strings?)
        };
        Ok(Self {
            path: CString::new(path)?,
            arguments: strings(&command.arguments)?,
            environment: strings(&command.environment)?,
        })
    }
}

/// The child's last deeds. Returns only what went wrong.
fn exec(command: &Command, prepared: &Prepared, state: &mut State) -> io::Error {
    match try_exec(command, prepared, state) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_exec(
    command: &Command,
    prepared: &Prepared,
    state: &mut State,
) -> io::Result<std::convert::Infallible> {
    setsid()?;
    if let Some(slave) = &state.terminal {
        super::terminal::take_control(slave)?;
    }
    let program = match command.program {
        Program::Path(_) => None,
        Program::Descriptor(index) if index < state.passed.len() => {
            Some(state.passed.remove(index))
        }
        Program::Descriptor(_) => return Err(io::Error::from_raw_os_error(libc::EBADF)),
    };
    reset_signals()?;
    rustix::process::chdir(&*command.directory)?;
    let program = place_descriptors(command, state, program)?;

    if let Some(filter) = &command.filter {
        // Its listener, if it has one, would have nobody to go to.
        crate::seccomp::install(filter, crate::seccomp::Install::default())?;
    }
    channel::send(&state.channel, Message::Executing, &[])?;
    Err(match program {
        None => {
            match nix::unistd::execve(&prepared.path, &prepared.arguments, &prepared.environment) {
                Ok(never) => match never {},
                Err(error) => error.into(),
            }
        }
        Some(program) => match nix::unistd::execveat(
            program,
            &prepared.path,
            &prepared.arguments,
            &prepared.environment,
            nix::fcntl::AtFlags::AT_EMPTY_PATH,
        ) {
            Ok(never) => match never {},
            Err(error) => error.into(),
        },
    })
}

/// Standard three, then what is passed, then (closed by the exec itself) the
/// channel and the program; nothing else stays open.
fn place_descriptors(
    command: &Command,
    state: &mut State,
    program: Option<OwnedFd>,
) -> io::Result<Option<OwnedFd>> {
    let passed = std::mem::take(&mut state.passed);
    let end = 3 + i32::try_from(passed.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Out of the way first: a descriptor may sit where another must go. No further than that, for the
    // limit on open files holds already.
    let high = |fd: BorrowedFd<'_>| -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(fd, end)?)
    };
    let stdio = [0, 1, 2].map(|index: usize| match &state.terminal {
        Some(slave) if command.terminal[index] => high(slave.as_fd()),
        _ => high(state.stdio[index].as_fd()),
    });
    let passed: Vec<_> = passed.iter().map(|fd| high(fd.as_fd())).collect();
    let channel = high(state.channel.as_fd())?;
    let program = program.map(|fd| high(fd.as_fd())).transpose()?;

    for (target, source) in (0..).zip(stdio.into_iter().chain(passed)) {
        let source = source?;
        // SAFETY: dup2(2) takes two numbers. The target is not owned by any value
        // that is used again: `exec` follows, or the process ends.
        if unsafe { libc::dup2(source.as_raw_fd(), target) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let keep = [
        Some(channel.as_raw_fd()),
        program.as_ref().map(AsRawFd::as_raw_fd),
    ];
    let mut next = u32::try_from(end).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut keep: Vec<u32> = keep
        .into_iter()
        .flatten()
        .filter_map(|fd| fd.try_into().ok())
        .collect();
    keep.sort_unstable();
    for fd in keep {
        close_range(next, fd - 1)?;
        next = fd + 1;
    }
    close_range(next, u32::MAX)?;
    // The old value's number is closed; it must not be closed again.
    std::mem::forget(std::mem::replace(&mut state.channel, channel));
    Ok(program)
}

/// Dispositions are inherited through exec when they are `ignore`, and the
/// runtime of this program ignores SIGPIPE (signal(7)).
fn reset_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if signal != Signal::SIGKILL && signal != Signal::SIGSTOP {
            // SAFETY: the default disposition runs no code of ours.
            unsafe { sigaction(signal, &default) }?;
        }
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

fn close_from(first: u32) {
    // Fails only for a first above the last.
    let _ = close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: close_range(2) takes three numbers. The values that own what is
    // closed are not used again: exec, exit or the loop of process 1 follow.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
