//! `plan`: what `run` would do, step by step; nothing is started or changed.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::Format;
use crate::run::ready::{Arguments, Known, Ready};

/// What `plan` takes.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    what: Arguments,
    /// How to print the plan
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(args: &PlanArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let known = Known::learn(&args.what)?;
    let Ready { agent, worker, .. } = known.plan()?;
    match args.format {
        Format::Text => {
            write!(out, "{}\n{}", agent.report, agent.launch)?;
            if let Some(worker) = worker {
                write!(out, "\n{worker}")?;
            }
            writeln!(out, "\naudit log `{}`", known.log.display())?;
        }
        Format::Json => {
            serde_json::to_writer_pretty(
                &mut *out,
                &serde_json::json!({
                    "report": agent.report,
                    "agent": agent.launch,
                    "worker": worker,
                    "audit_log": known.log,
                }),
            )?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
