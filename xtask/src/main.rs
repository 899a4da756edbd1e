//! Project chores: installs prerequisites, runs every check, benchmarks and the real agents.
//!
//! `cargo xtask ci` is what the continuous integration runs, and nothing else is.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod dependencies;
mod docs;
mod links;
mod openclaw;
mod process;
mod report;
mod test;
mod tools;
mod workspace;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Project chores.")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check and every test, as the continuous integration does
    Ci(ci::Arguments),
    /// Run the tests
    Test(test::Arguments),
    /// Build the supervisor (release) and run it with these arguments
    Run(RunArguments),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Command),
    /// Say what this host lacks for building and testing, and install it with apt where possible
    InstallDeps,
    /// Generate the manual pages, the shell completions and the API documentation
    Docs,
    /// Install OpenClaw and run one scripted turn of it in the sandbox
    Openclaw(openclaw::Arguments),
    /// Run one turn of OpenClaw with every path given
    #[command(hide = true)]
    Turn(openclaw::TurnArguments),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Arguments for `nemoclaw-supervisor`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<std::ffi::OsString>,
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    match run(line.command) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    // This one runs as a user who may not be able to read the checkout.
    if let Command::Turn(arguments) = command {
        openclaw::turn(arguments)?;
        return Ok(ExitCode::SUCCESS);
    }
    let workspace = Workspace::find()?;
    match command {
        Command::Turn(_) => {}
        Command::Ci(arguments) => return ci::run(&workspace, &arguments),
        Command::Test(arguments) => return test::run(&workspace, &arguments),
        Command::Run(arguments) => {
            let programs = workspace.build_release()?;
            let mut command = std::process::Command::new(programs.join("nemoclaw-supervisor"));
            command.args(arguments.arguments);
            return process::replace(command);
        }
        Command::Bench(command) => bench::run(&workspace, &command)?,
        Command::InstallDeps => dependencies::install()?,
        Command::Docs => docs::generate(&workspace)?,
        Command::Openclaw(arguments) => openclaw::run(&workspace, &arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
