//! Running other programs: what is run is printed, and nothing waits for ever.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// How often it is looked whether an output that outlives its program has ended.
const POLL: Duration = Duration::from_millis(20);

/// Prints a line for the person who watches.
pub(crate) fn say(text: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Runs `command` with our standard streams; its failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(&format!("+ {}", describe(command)));
    let status = command
        .status()
        .with_context(|| format!("could not start `{}`", name(command)))?;
    check(command, status)
}

/// Runs `command` and returns its standard output; its failure is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not start `{}`", name(command)))?;
    check(command, output.status)?;
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote something other than text", name(command)))
}

/// Becomes `command`; returns only when that fails.
pub(crate) fn replace(mut command: Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("could not start `{}`", name(&command)))
}

/// What a program that was given a time limit left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

/// Runs `command` with both outputs kept; when it is not done within `limit`, it and all that it
/// started are killed and an error is returned.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<Finished> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{}`", name(command)))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let waited = wait_within(&mut child, started + limit)?;
    let elapsed = started.elapsed();
    // A descendant that outlived the program would hold the pipes; it must not hold us.
    while waited.is_some() && !(stdout.is_finished() && stderr.is_finished()) {
        if started.elapsed() > limit {
            bail!(
                "`{}` ended, but something that it started still holds its output",
                name(command)
            );
        }
        thread::sleep(POLL);
    }
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    let Some(status) = waited else {
        bail!(
            "`{}` was not done within {} s; its last words:\n{}",
            name(command),
            limit.as_secs(),
            tail(&stderr, 20)
        );
    };
    Ok(Finished {
        status,
        stdout,
        stderr,
        elapsed,
    })
}

/// Waits for `child` until `deadline`; `None` when it was killed because the time was up.
pub(crate) fn wait_within(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    let process = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("a process has no number")?;
    let watched = pidfd_open(process, PidfdFlags::empty())
        .context("could not watch a process that was started")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            end(child);
            return Ok(None);
        }
        // A process descriptor becomes readable when its process ends (pidfd_open(2)).
        let timeout = Timespec::try_from(left)?;
        match poll(&mut [PollFd::new(&watched, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("could not wait for a process"),
        }
    }
}

fn drain<R: Read + Send + 'static>(stream: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is what can be shown.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Kills `child` and all its descendants. They are not a process group of their own, so that an
/// interrupt from the terminal reaches them too; hence the walk.
fn end(child: &mut Child) {
    let mut family = vec![child.id()];
    let mut next = 0;
    while let Some(&process) = family.get(next) {
        let children = format!("/proc/{process}/task/{process}/children");
        // A process that is gone has no children to find.
        let text = fs::read_to_string(children).unwrap_or_default();
        family.extend(
            text.split_whitespace()
                .filter_map(|word| word.parse::<u32>().ok()),
        );
        next += 1;
    }
    for process in family {
        if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
            // It may be gone already.
            let _ = kill_process(process, Signal::KILL);
        }
    }
    let _ = child.wait();
}

/// The last `count` lines of `text`.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The program and its arguments, for reading.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        Ok(())
    } else {
        bail!("`{}` failed: {status}", describe(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_too_long_is_killed_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun >&2; sleep 61.7 & sleep 61.7"]);
        let started = Instant::now();
        let error = run_within(&mut command, Duration::from_millis(300)).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(20));
        assert!(error.to_string().contains("begun"), "{error}");
    }

    #[test]
    fn outputs_and_status_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let finished = run_within(&mut command, Duration::from_secs(20)).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(
            (finished.stdout.as_str(), finished.stderr.as_str()),
            ("out\n", "err\n")
        );
    }
}
