//! Skeleton.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

pub(crate) fn run(_args: &DoctorArgs, _out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
