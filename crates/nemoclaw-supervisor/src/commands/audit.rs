//! `audit`: shows, searches and verifies the record of what agents did.

mod logs;
mod query;
mod row;
mod tail;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Subcommand;
use nemoclaw_audit::{Line, escape_json};
use serde_json::json;

use super::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the last entries, and what their runs were refused
    ///
    /// After the entries, each distinct refusal of the runs shown is told once, with the rule and the smallest edit
    /// of the policy that would allow it. Exit status: 0, or 1 where a line that was shown is no entry.
    Tail(tail::TailArgs),
    /// Show the entries that fit every given condition
    ///
    /// Lines that are no entries are shown too, whatever the conditions. Exit status: 0, or 1 where there was such a
    /// line: the answer may lack something.
    Query(query::QueryArgs),
    /// Prove that logs are whole, or name the first bad entry
    ///
    /// Exit status: 0 where every log is whole and agrees with its head file, else 1.
    Verify(verify::VerifyArgs),
}

pub(crate) fn run(command: AuditCommand, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Tail(args) => tail::run(&args, out),
        AuditCommand::Query(args) => query::run(&args, out),
        AuditCommand::Verify(args) => verify::run(&args, out),
    }
}

/// Prints one line of a log: aligned for people, or as it stands in the log.
fn print(line: &Line, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match (format, &line.record) {
        (Format::Text, _) => writeln!(out, "{}", row::Row(line)),
        // As it was written, and so fit for computing its digest, unless somebody put unsafe characters in.
        (Format::Json, Ok(_)) => writeln!(out, "{}", escape_json(&line.text)),
        (Format::Json, Err(error)) => writeln!(
            out,
            "{}",
            json!({"offset": line.offset, "error": error.to_string()})
        ),
    }
}

#[cfg(test)]
mod tests;
