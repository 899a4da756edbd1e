//! Skeleton.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {}

pub(crate) fn run(command: PolicyCommand, _out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {}
}
