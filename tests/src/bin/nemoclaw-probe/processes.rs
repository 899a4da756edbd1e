//! Tries on processes, and processes that live in ways that a sandbox must end.

use std::fs;
use std::io::{IoSliceMut, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use serde_json::{Value, json};

use crate::files::two;
use crate::{Failure, Outcome, unable};

/// The longest that anything here waits or lives.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often a heart beats.
const BEAT: Duration = Duration::from_millis(20);

pub(crate) fn attempt(name: &str, target: &str) -> Option<Outcome> {
    Some(match name {
        "pid" => Ok(std::process::id().into()),
        "parent" => Ok(std::os::unix::process::parent_id().into()),
        "processes" => processes(),
        // Asks for the permission and sends nothing.
        "signal" => with_pid(target, |pid| Ok(nix::sys::signal::kill(pid, None)?)),
        "signal-group" => with_pid(target, |pid| Ok(nix::sys::signal::killpg(pid, None)?)),
        "ptrace-attach" => with_pid(target, |pid| {
            ptrace::attach(pid)?;
            waitpid(pid, None)?;
            Ok(ptrace::detach(pid, None)?)
        }),
        "ptrace-me" => in_child(|| Ok(ptrace::traceme()?)),
        "read-memory" => with_pid(target, read_memory),
        "open-memory" => with_pid(target, |pid| {
            fs::File::open(format!("/proc/{pid}/mem"))?;
            Ok(())
        }),
        "daemon" => daemon(target),
        "heartbeat" => heartbeat(target),
        "child-heartbeat" => child_heartbeat(target),
        "block-signals" => SigSet::all()
            .thread_block()
            .map(|()| Value::Null)
            .map_err(Into::into),
        "await-signal" => two(target, await_signal),
        "die" => die(target),
        "sleep" => number(target).map(|milliseconds| {
            std::thread::sleep(Duration::from_millis(milliseconds).min(PATIENCE));
            Value::Null
        }),
        "forks" => number(target).and_then(forks),
        "memory" => number(target).and_then(memory),
        "open-files" => number(target).and_then(open_files),
        _ => return None,
    })
}

fn number(target: &str) -> Result<u64, Failure> {
    target.parse().map_err(|_| unable("no number"))
}

fn with_pid(target: &str, run: impl FnOnce(Pid) -> Result<(), Failure>) -> Outcome {
    let pid = target.parse().map_err(|_| unable("no process id"))?;
    run(Pid::from_raw(pid)).map(|()| Value::Null)
}

/// Runs what may end the process in a child.
pub(crate) fn in_child(run: impl FnOnce() -> Result<(), Failure>) -> Outcome {
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let status = match run() {
                Ok(()) => 0,
                // Errors have numbers below 128 on every architecture that we run on.
                Err(Failure::Errno(errno)) => errno as i32,
                Err(_) => 255,
            };
            std::process::exit(status)
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(Value::Null),
            WaitStatus::Exited(_, 255) => Err(unable("the child could not try")),
            WaitStatus::Exited(_, errno) => Err(Failure::Errno(Errno::from_raw(errno))),
            WaitStatus::Signaled(_, signal, _) => Err(Failure::Killed(signal as i32)),
            other => Err(unable(format!("{other:?}"))),
        },
    }
}

fn processes() -> Outcome {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found.into())
}

fn read_memory(pid: Pid) -> Result<(), Failure> {
    let mut buffer = [0];
    // An address that is mapped nowhere: EFAULT where the permission is given.
    let remote = [RemoteIoVec { base: 8, len: 1 }];
    process_vm_readv(pid, &mut [IoSliceMut::new(&mut buffer)], &remote)?;
    Ok(())
}

/// Forks twice, so that nobody waits for the grandchild; answers its process id.
fn daemon(path: &str) -> Outcome {
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            Ok(Value::Null)
        }
        ForkResult::Child => {
            let null = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")?;
            rustix::process::setsid()?;
            rustix::stdio::dup2_stdin(&null)?;
            rustix::stdio::dup2_stdout(&null)?;
            rustix::stdio::dup2_stderr(&null)?;
            SigSet::all().thread_block()?;
            // SAFETY: as above.
            if unsafe { fork() }?.is_child() {
                let _ = heartbeat(path);
            }
            std::process::exit(0)
        }
    }
}

/// A child that holds our standard output and lives on when we end.
fn child_heartbeat(path: &str) -> Outcome {
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.as_raw().into()),
        ForkResult::Child => {
            let _ = heartbeat(path);
            std::process::exit(0)
        }
    }
}

/// Writes a growing number to a file until something ends it.
fn heartbeat(path: &str) -> Outcome {
    let start = Instant::now();
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?;
    let mut count = 0_u64;
    while start.elapsed() < PATIENCE {
        count += 1;
        writeln!(file, "{count}")?;
        std::thread::sleep(BEAT);
    }
    Ok(count.into())
}

/// Says by a file that it is ready, and waits for the signal.
fn await_signal(name: &str, ready: &str) -> Outcome {
    let signal: Signal = format!("SIG{name}").parse()?;
    let set = SigSet::from(signal);
    set.thread_block()?;
    let waiting = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    fs::write(ready, "")?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(info) = waiting.read_signal()? {
            return Ok(json!({"signal": info.ssi_signo, "from": info.ssi_pid}));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(unable("no signal came"))
}

fn die(name: &str) -> Outcome {
    let signal: Signal = format!("SIG{name}").parse()?;
    nix::sys::signal::raise(signal)?;
    Ok(Value::Null)
}

/// How many children can live at once, up to a number; they are ended again.
fn forks(most: u64) -> Outcome {
    let mut children = Vec::new();
    let mut refusal = None;
    for _ in 0..most {
        // SAFETY: this program has one thread, so the child may do anything.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                std::thread::sleep(PATIENCE);
                std::process::exit(0)
            }
            Ok(ForkResult::Parent { child }) => children.push(child),
            Err(errno) => {
                refusal = Some(format!("{errno:?}"));
                break;
            }
        }
    }
    for child in &children {
        let _ = nix::sys::signal::kill(*child, Signal::SIGKILL);
        let _ = waitpid(*child, None);
    }
    Ok(json!({"lived": children.len(), "refusal": refusal}))
}

/// Uses memory up to a number of MiB, in a child, which may be ended for it.
fn memory(mebibytes: u64) -> Outcome {
    in_child(|| {
        let mut held = Vec::new();
        for _ in 0..mebibytes {
            // Written, so that the kernel must give it.
            held.push(std::hint::black_box(vec![1_u8; 1 << 20]));
        }
        drop(std::hint::black_box(held));
        Ok(())
    })
}

/// How many files can be open at once, up to a number.
fn open_files(most: u64) -> Outcome {
    let mut held = Vec::new();
    for _ in 0..most {
        match fs::File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(error) => {
                let refusal = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                return Ok(json!({"opened": held.len(), "refusal": format!("{refusal:?}")}));
            }
        }
    }
    Ok(json!({"opened": held.len()}))
}
