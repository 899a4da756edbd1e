//! `run`: one agent under one policy.

use std::process::ExitCode;

pub(crate) use crate::run::RunArguments;

/// Errors have a status of their own here, which says who failed.
pub(crate) fn run(arguments: &RunArguments) -> Result<ExitCode, (anyhow::Error, u8)> {
    crate::run::run(arguments).map_err(|error| {
        let status = crate::run::exit_status(&error);
        (error, status)
    })
}
