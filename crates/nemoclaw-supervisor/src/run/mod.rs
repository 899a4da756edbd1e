//! One agent, from its policy to its exit status.
//!
//! ```text
//! Known::learn ──> Log::open ──> Known::plan ──> launch ──> drive ──> conclude
//! policy, host     the record    what will run   on record,  one loop   all is written,
//!                  comes first                   then run               refusals are told
//! ```
//!
//! Nothing of the agent runs before its launch is on record and durable, and nothing goes on running once the record
//! can no longer be kept.

mod drive;
mod patience;
pub(crate) mod ready;
mod record;
pub(crate) mod terminal;
mod worker;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use nemoclaw_audit::{Durability, Entry, Log, Refusals, Shown, Writer};
use nemoclaw_sandbox::cgroup::{self, Applied};
use nemoclaw_sandbox::launch::{
    self, Ending, LaunchError, PinnedProgram, Running, StandardStreams,
};
use nemoclaw_sandbox::plan::{LaunchPlan, Step};
use nemoclaw_sandbox::seccomp::Filter;

use crate::plan::PlanError;
use crate::plan::report::{Extent, Report};
use drive::{Agent, Ended, Notice, Session};
use ready::{Arguments, Known, Ready};
use terminal::Terminal;
use worker::Worker;

/// Entries that may wait to be written before whoever sends one waits too.
const QUEUE: usize = 1024;

/// The supervisor could not launch: env(1) and timeout(1) use this status for their own failures.
const COULD_NOT_LAUNCH: u8 = 125;

/// What `run` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    what: Arguments,
    /// Say only what went wrong, not what is enforced or was refused
    #[arg(long, short)]
    quiet: bool,
    /// Write the plan that runs to this file, as JSON
    #[arg(long, value_name = "FILE")]
    save_plan: Option<PathBuf>,
}

/// Runs the agent and gives its exit status.
///
/// # Errors
/// Why there was no agent, or why its record is incomplete; [`exit_status`] says with which status to end.
pub(crate) fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let known = Known::learn(&arguments.what)?;
    let log = Log::open(&known.log, Durability::EveryBatch)
        .with_context(|| format!("could not open the audit log `{}`", known.log.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the reactor")?;
    let (notify, notices) = tokio::sync::mpsc::unbounded_channel();
    let trouble = notify.clone();
    let (sender, writer) = Writer::spawn(log, QUEUE, move |trouble_seen| {
        // Nobody listens before the loop runs and after it has ended; then the log's own errors tell.
        let _ = trouble.send(Notice::Trouble(trouble_seen));
    })
    .context("could not start the thread that writes the audit log")?;
    let begun = Instant::now();
    let session = Session::new(&known, sender, notify, notices);
    let ended = runtime.block_on(launch_and_drive(&known, arguments, session));
    match ended {
        Ok((ending, ended)) => conclude(&known, arguments, writer, begun, ending, ended),
        Err(error) => {
            let status = exit_status(&error);
            let denied = status != COULD_NOT_LAUNCH || is_requirement(&error);
            let entry = known
                .run
                .not_launched(&known.command, &format!("{error:#}"), denied);
            match writer.close(vec![entry]) {
                Ok(_) => Err(error),
                Err(incomplete) => Err(error.context(incomplete)),
            }
        }
    }
}

async fn launch_and_drive(
    known: &Known,
    arguments: &RunArguments,
    mut session: Session<'_>,
) -> anyhow::Result<(Ending, Ended)> {
    session
        .listen_to_signals()
        .context("could not listen to signals")?;
    let Ready {
        agent,
        worker,
        digests,
    } = known.plan()?;
    if let Some(path) = &arguments.save_plan {
        save(&agent.launch, path)
            .with_context(|| format!("could not write the plan to `{}`", path.display()))?;
    }
    if !arguments.quiet {
        tell(&agent.report);
    }
    let upstream = known.upstream()?;
    let init = PinnedProgram::open(&known.programs.init).with_context(|| {
        format!(
            "`nemoclaw-init` must stand beside `nemoclaw-supervisor`; could not open `{}`",
            known.programs.init.display()
        )
    })?;
    session
        .record_durably(known.run.launch(&known.command, &agent.report, &digests))
        .context("the launch could not be put on record")?;
    // What it removed belonged to supervisors that are dead.
    let _ = cgroup::sweep(&known.facts.cgroups, Path::new("/proc"));

    let started = worker
        .map(|plan| Worker::start(plan, &known.facts.cgroups, &init))
        .transpose()
        .context("could not start the egress worker")?;
    let filter = filter_of(&agent.launch);
    let program = program_of(&agent.launch);
    let (mut running, limits) = start(known, agent.launch, &init)?;
    let listeners = running.take_listeners();
    if let Some(started) = started {
        let (worker, control) = started
            .configure(&known.run.agent, upstream, &listeners)
            .await?;
        session.serve(worker, control);
    }
    // From here on only the worker holds them: when it is gone, connections are refused.
    drop(listeners);
    let terminal = link_terminal(known, &mut running)?;
    session.record(known.run.started(running.pid(), &program, &limits));
    let agent = Agent::new(running, terminal, filter)?;
    session.drive(agent).await
}

fn start(
    known: &Known,
    plan: LaunchPlan,
    init: &PinnedProgram,
) -> anyhow::Result<(Running, Vec<Applied>)> {
    let streams = StandardStreams::inherit().context(
        "standard input, output and error must be open files, pipes or terminals; use `/dev/null` for what is not wanted",
    )?;
    let prepared = launch::prepare(plan, &known.facts.cgroups)?;
    let limits = prepared.applied.clone();
    let running = prepared.start(init, &streams, &[])?.go()?;
    Ok((running, limits))
}

fn link_terminal(known: &Known, running: &mut Running) -> anyhow::Result<Option<Terminal>> {
    running
        .take_terminal()
        .map(|master: OwnedFd| Terminal::link(master, known.terminals))
        .transpose()
        .context("could not link the terminals")
}

fn filter_of(plan: &LaunchPlan) -> Option<Filter> {
    plan.steps.iter().find_map(|step| match step {
        Step::Seccomp { filter, .. } => Some(filter.clone()),
        _ => None,
    })
}

fn program_of(plan: &LaunchPlan) -> String {
    plan.steps
        .iter()
        .find_map(|step| match step {
            Step::Execute(command) => command.arguments.first().cloned(),
            _ => None,
        })
        .unwrap_or_default()
}

fn save(plan: &LaunchPlan, path: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(plan)?;
    text.push(b'\n');
    std::fs::write(path, text)?;
    Ok(())
}

/// Says before the start what will not hold.
fn tell(report: &Report) {
    let mut error = io::stderr().lock();
    for finding in &report.findings {
        for lack in &finding.lacks {
            let extent = match finding.extent {
                Extent::Fully | Extent::Partly => "partly enforced",
                Extent::Not => "not enforced",
            };
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(
                error,
                "nemoclaw: {} is {extent}: {} (remedy: {})",
                finding.mechanism, lack.what, lack.remedy
            );
        }
    }
    for note in &report.notes {
        let _ = writeln!(error, "nemoclaw: note: {note}");
    }
}

/// Writes the last entries, tells the refusals and gives the status.
fn conclude(
    known: &Known,
    arguments: &RunArguments,
    writer: Writer,
    begun: Instant,
    ending: Ending,
    ended: Ended,
) -> anyhow::Result<ExitCode> {
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut closing: Vec<Entry> = ended.last_entries;
    closing.push(
        known
            .run
            .exit(ending, ended.usage, milliseconds, ended.reason.as_deref()),
    );
    if !arguments.quiet {
        tell_refusals(&ended.refusals, &known.log);
    }
    if let Some(reason) = &ended.reason {
        let _ = writeln!(
            io::stderr(),
            "nemoclaw: the agent was ended: {}",
            Shown(reason)
        );
    }
    let summary = writer.close(closing)?;
    anyhow::ensure!(
        !summary.reserve_used,
        "the disk of the audit log `{}` is full; the record is complete, and no agent is started until there is space",
        known.log.display()
    );
    Ok(ExitCode::from(ending.exit_status()))
}

fn tell_refusals(refusals: &Refusals, log: &Path) {
    let mut error = io::stderr().lock();
    for refusal in refusals.list() {
        // A closed standard error leaves nobody to tell; the log has it.
        let _ = writeln!(error, "nemoclaw: refused: {refusal}");
    }
    if refusals.beyond() > 0 {
        let _ = writeln!(
            error,
            "nemoclaw: and {} more refusals; see `nemoclaw audit query --decision deny {}`",
            refusals.beyond(),
            log.display()
        );
    }
}

/// The status to end with after an error: 127 not found, 126 found and not executed, else 125.
pub(crate) fn exit_status(error: &anyhow::Error) -> u8 {
    error
        .chain()
        .find_map(|cause| {
            let planned = cause
                .downcast_ref::<PlanError>()
                .map(PlanError::exit_status);
            planned.or_else(|| {
                cause
                    .downcast_ref::<LaunchError>()
                    .map(LaunchError::exit_status)
            })
        })
        .unwrap_or(COULD_NOT_LAUNCH)
}

/// Whether the policy itself forbade the launch, by a requirement that this host does not meet.
fn is_requirement(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<PlanError>(),
            Some(PlanError::Required(_))
        ) || matches!(
            cause.downcast_ref::<LaunchError>(),
            Some(LaunchError::Limits(_))
        )
    })
}
