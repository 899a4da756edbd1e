//! Skeleton.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum GenerateCommand {}

pub(crate) fn run(command: GenerateCommand, _out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {}
}
