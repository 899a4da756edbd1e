//! `audit tail`: the last entries, with `--follow` new ones as they come, then what their runs were refused.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use nemoclaw_audit::{Line, ReadError, Reader, Refusals};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;

use super::{Format, logs, print};

/// How far back the refusals of a run are looked for, in lines.
const REFUSALS_WITHIN: usize = 10_000;

/// How long a new entry may wait to be seen, in milliseconds.
const PAUSE: u16 = 200;

/// What `audit tail` takes.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The log, or a directory with one log; without it, the log of `--agent`, or the only one in the default place
    log: Option<PathBuf>,
    /// The log of this agent in the default place
    #[arg(long, value_name = "NAME", conflicts_with = "log")]
    agent: Option<String>,
    /// How many of the last entries to show
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    lines: usize,
    /// Go on with new entries as they are written, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Answers 1 where a line that was shown is no entry.
pub(super) fn run(args: &TailArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let path = logs::one(args.log.as_deref(), args.agent.as_deref())?;
    let mut out = BufWriter::new(out);
    let mut shown = Shown {
        format: args.format,
        runs: BTreeSet::new(),
        sound: true,
    };
    let reader = Reader::open_tail(&path, args.lines)?;
    if args.follow {
        let end = End::watch()?;
        let followed = identity(&path);
        let mut reader = reader.following();
        loop {
            let there = identity(&path) == followed;
            shown.show(&mut reader, &mut out)?;
            out.flush()?;
            if !there {
                anyhow::bail!(
                    "the audit log `{}` was moved or removed; start again to follow the new one",
                    logs::shown(&path)
                );
            }
            if end.comes_within(PAUSE)? {
                break;
            }
        }
    } else {
        shown.show(reader, &mut out)?;
    }
    let refusals = shown.refusals(&path, args.lines)?;
    tell(&refusals, args.format, &mut out)?;
    out.flush()?;
    Ok(if shown.sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// The device and inode that a path leads to now.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// What was shown so far.
struct Shown {
    format: Format,
    /// The runs of the entries; entries of no run count as one.
    runs: BTreeSet<Option<String>>,
    /// Whether every line was an entry.
    sound: bool,
}

impl Shown {
    fn show(
        &mut self,
        lines: impl Iterator<Item = Result<Line, ReadError>>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        for line in lines {
            let line = line?;
            print(&line, self.format, out)?;
            match line.record {
                Ok(record) => {
                    self.runs.insert(record.entry.run_id);
                }
                Err(_) => self.sound = false,
            }
        }
        Ok(())
    }

    /// What the runs of the entries were refused, also before the first entry that was shown.
    fn refusals(&self, path: &Path, lines: usize) -> Result<Refusals, ReadError> {
        let mut refusals = Refusals::default();
        for line in Reader::open_tail(path, lines.max(REFUSALS_WITHIN))? {
            if let Ok(record) = line?.record
                && self.runs.contains(&record.entry.run_id)
            {
                refusals.note(&record.entry);
            }
        }
        Ok(refusals)
    }
}

/// Tells each distinct refusal on one line, with the rule and the edit that would allow it.
fn tell(refusals: &Refusals, format: Format, out: &mut dyn Write) -> io::Result<()> {
    let list = refusals.list();
    let beyond = refusals.beyond();
    match format {
        Format::Text => {
            if list.is_empty() {
                return Ok(());
            }
            writeln!(out, "\nrefused:")?;
            for refusal in list {
                writeln!(out, "  {refusal}")?;
            }
            if beyond > 0 {
                writeln!(
                    out,
                    "  and {beyond} more; `audit query --decision deny` shows them"
                )?;
            }
        }
        Format::Json => {
            for refusal in list {
                writeln!(
                    out,
                    "{}",
                    nemoclaw_audit::escape_json(&json!({"refusal": refusal}).to_string())
                )?;
            }
            if beyond > 0 {
                writeln!(out, "{}", json!({"refusals_beyond": beyond}))?;
            }
        }
    }
    Ok(())
}

/// What ends following: a signal, or nobody reading any more.
struct End {
    signals: SignalFd,
}

impl End {
    fn watch() -> anyhow::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        // Blocked for good: the next thing after such a signal is the end of the program.
        set.thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            })
            .map(|signals| Self { signals })
            .context("could not watch for signals")
    }

    /// Waits; says whether the end has come.
    fn comes_within(&self, milliseconds: u16) -> anyhow::Result<bool> {
        let out = io::stdout();
        // Nothing is asked of the output; that nobody reads it (POLLERR) is told unasked.
        let mut watched = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(out.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut watched, milliseconds) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("could not wait for new entries"),
        }
        let [signals, output] = watched.map(|one| one.revents().unwrap_or(PollFlags::empty()));
        if output.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(signals.contains(PollFlags::POLLIN))
    }
}
