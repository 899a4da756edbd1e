//! `policy`: checks and explains policy files.

mod check;
mod explain;
mod resolve;

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Read policies and print every mistake and every doubt
    ///
    /// Exits with 0 when every file is a policy, with or without warnings, and with 1 when one has errors or cannot be
    /// read.
    Check(check::CheckArgs),
    /// Say what a policy decides of one action, and why
    ///
    /// Exits with 0 when the question was answered, whatever the answer, and with 1 when the policy has errors or the
    /// question is none. Scripts read the answer with `--format json`.
    Explain(explain::ExplainArgs),
}

pub(crate) fn run(command: PolicyCommand, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Check(args) => check::run(&args, out),
        PolicyCommand::Explain(args) => explain::run(&args, out),
    }
}
