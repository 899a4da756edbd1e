//! `audit verify`: proves that logs are whole, or names the first bad entry of each.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nemoclaw_audit::{Report, Shown, escape_json};
use serde::Serialize;

use super::{Format, logs};

/// What `audit verify` takes.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Logs, or directories of logs; without any, every log in the default place
    #[arg(value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// The log of this agent in the default place
    #[arg(long, value_name = "NAME", conflicts_with = "logs")]
    agent: Option<String>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Answers 0 where every log is whole, else 1.
pub(super) fn run(args: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let verdicts = Verdicts::of(logs::all(&args.logs, args.agent.as_deref())?);
    match args.format {
        Format::Text => write!(out, "{verdicts}")?,
        Format::Json => {
            for line in serde_json::to_string_pretty(&verdicts)?.lines() {
                writeln!(out, "{}", escape_json(line))?;
            }
        }
    }
    out.flush()?;
    Ok(if verdicts.clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// What was found in all logs.
#[derive(Debug, Serialize)]
struct Verdicts {
    clean: bool,
    logs: Vec<Verdict>,
}

/// What was found in one.
#[derive(Debug, Serialize)]
struct Verdict {
    path: String,
    clean: bool,
    /// Why it could not be read.
    error: Option<String>,
    #[serde(flatten)]
    report: Option<Report>,
}

impl Verdicts {
    fn of(logs: Vec<PathBuf>) -> Self {
        let logs: Vec<Verdict> = logs.into_iter().map(Verdict::of).collect();
        Self {
            clean: logs.iter().all(|log| log.clean),
            logs,
        }
    }
}

impl Verdict {
    fn of(path: PathBuf) -> Self {
        let (error, report) = match verify(&path) {
            Ok(report) => (None, Some(report)),
            Err(error) => (Some(format!("{error:#}")), None),
        };
        Self {
            path: path.to_string_lossy().into_owned(),
            clean: report.as_ref().is_some_and(|it| it.first_bad.is_none()),
            error,
            report,
        }
    }
}

fn verify(path: &Path) -> anyhow::Result<Report> {
    logs::present(path.to_owned())?;
    Ok(nemoclaw_audit::verify(path)?)
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.logs.iter().try_for_each(|log| writeln!(f, "{log}"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: ", Shown(&self.path))?;
        if let Some(error) = &self.error {
            return write!(f, "NOT VERIFIED: {}", Shown(error));
        }
        let Some(report) = &self.report else {
            return f.write_str("NOT VERIFIED");
        };
        let entries = count(report.entries);
        match &report.first_bad {
            None => write!(f, "{entries}, clean; head agrees"),
            Some(bad) => write!(
                f,
                "BAD at line {}, entry {} ({}): {}; {entries} before it good",
                bad.line,
                bad.sequence,
                bad.kind.as_str(),
                Shown(&bad.message)
            ),
        }
    }
}

fn count(entries: u64) -> String {
    if entries == 1 {
        "1 entry".to_owned()
    } else {
        format!("{entries} entries")
    }
}
