//! The program: command line, planning, host set-up and the loop that drives one agent.
#![forbid(unsafe_code)]

mod commands;
mod facts;
mod places;
mod plan;
mod policy_file;
mod run;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    commands::run(commands::CommandLine::parse())
}
