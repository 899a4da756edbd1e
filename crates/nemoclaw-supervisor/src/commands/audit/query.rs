//! `audit query`: the entries that fit every given condition.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use nemoclaw_audit::{Decision, Filter, InstantError, Reader, Timestamp, parse_instant};

use super::{Format, logs, print};

/// What `audit query` takes.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// The log, or a directory with one log; without it, the log of `--agent`, or the only one in the default place
    log: Option<PathBuf>,
    /// Only entries of this action, such as `read` or `model_request`
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only entries with this decision
    #[arg(long, value_name = "DECISION", value_parser = decision())]
    decision: Option<Decision>,
    /// Only entries whose resource contains this text
    #[arg(long, value_name = "TEXT")]
    resource: Option<String>,
    /// Only entries of this run
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Only entries of this agent; without LOG, everything in this agent's log
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only entries from this time on: `2026-01-31`, `2026-01-31T12:00:00Z`, or how long ago: `15m`, `2h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Knows four words: another one is a mistake here, though logs of later versions may hold more.
fn decision() -> impl TypedValueParser<Value = Decision> {
    PossibleValuesParser::new(["allow", "deny", "ask", "error"]).map(Decision::from)
}

fn time(text: &str) -> Result<Timestamp, InstantError> {
    parse_instant(text, Timestamp::now())
}

impl QueryArgs {
    fn filter(&self) -> Filter {
        Filter {
            // An agent's own log also tells of crashes, which no agent caused.
            agent: self.agent.clone().filter(|_| self.log.is_some()),
            run: self.run.clone(),
            action: self.action.clone(),
            decision: self.decision.clone(),
            resource: self.resource.clone(),
            text: None,
            since: self.since,
            until: self.until,
        }
    }
}

/// Answers 1 where the log held a line that is no entry: the answer may lack something.
pub(super) fn run(args: &QueryArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let path = logs::one(args.log.as_deref(), args.agent.as_deref())?;
    let filter = args.filter();
    let mut out = BufWriter::new(out);
    let mut code = ExitCode::SUCCESS;
    for line in Reader::open(&path)? {
        let line = line?;
        if line.record.is_err() {
            code = ExitCode::from(1);
        }
        if filter.wants(&line) {
            print(&line, args.format, &mut out)?;
        }
    }
    out.flush()?;
    Ok(code)
}
