//! The command line: one module a command, each with its arguments and a `run`.

mod audit;
mod doctor;
mod generate;
mod plan;
mod policy;
mod run;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Runs an AI agent in a sandbox that one policy file decides.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an agent under a policy
    Run(run::RunArguments),
    /// Print what `run` would do, step by step, and do nothing
    Plan(plan::PlanArgs),
    /// Check and explain policy files
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Try what this host offers and say what will be enforced
    Doctor(doctor::DoctorArgs),
    /// Write manual pages and shell completions
    #[command(subcommand)]
    Generate(generate::GenerateCommand),
}

/// How a command prints its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

pub(crate) fn run(line: CommandLine) -> ExitCode {
    let mut out = io::stdout().lock();
    let result = match line.command {
        // The agent writes to standard output itself.
        Command::Run(args) => {
            drop(out);
            run::run(&args)
        }
        Command::Plan(args) => answered(plan::run(&args, &mut out)),
        Command::Policy(command) => answered(policy::run(command, &mut out)),
        Command::Audit(command) => answered(audit::run(command, &mut out)),
        Command::Doctor(args) => answered(doctor::run(&args, &mut out)),
        Command::Generate(command) => answered(generate::run(command, &mut out)),
    };
    match result {
        Ok(code) => code,
        Err((error, status)) => {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(io::stderr(), "nemoclaw: {error:#}");
            ExitCode::from(status)
        }
    }
}

/// How every command but `run` ends: with status 1 when it failed, and well when whoever reads its answer has seen
/// enough, as in `audit query | head`.
fn answered(result: anyhow::Result<ExitCode>) -> Result<ExitCode, (anyhow::Error, u8)> {
    match result {
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result.map_err(|error| (error, 1)),
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let direct = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let within = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        direct.or(within) == Some(io::ErrorKind::BrokenPipe)
    })
}
