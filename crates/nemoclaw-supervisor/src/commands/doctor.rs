//! `doctor`: what this host offers, tried, and what will be enforced here, mechanism by mechanism.

mod diagnosis;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::Format;
use crate::facts::HostFacts;
use crate::policy_file;
use diagnosis::{Diagnosis, Wants};

/// What `doctor` takes.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The policy that is to be launched here; without it, one that requires every mechanism and sets no limit
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(args: &DoctorArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let wants = match &args.policy {
        None => Wants::default(),
        Some(path) => Wants::of(&policy_file::load(path)?.0),
    };
    let supervisor = std::env::current_exe().context("could not find this program's own file")?;
    let init = supervisor.with_file_name("nemoclaw-init");
    let workdir = std::env::current_dir().context("could not find the current directory")?;
    let facts = HostFacts::probe_thorough(&init, &workdir).with_context(|| {
        format!(
            "could not try this host; `nemoclaw-init` must stand beside `{}`",
            supervisor.display()
        )
    })?;
    let diagnosis = Diagnosis::of(&facts, &wants);
    match args.format {
        Format::Text => write!(out, "{diagnosis}")?,
        Format::Json => {
            serde_json::to_writer_pretty(
                &mut *out,
                &serde_json::json!({ "diagnosis": diagnosis, "facts": facts }),
            )?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(if diagnosis.launchable {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
