//! Skeleton.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {}

pub(crate) fn run(command: AuditCommand, _out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {}
}
