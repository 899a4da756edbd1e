//! Every check, in the order in which a mistake is found soonest; all are run, then summed up.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::{self, say};
use crate::report::Tally;
use crate::workspace::{Workspace, cache, in_ci};
use crate::{dependencies, docs, links, openclaw, test, tools};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out the turn of OpenClaw, which downloads some 250 MB when the cache is empty
    #[arg(long)]
    no_openclaw: bool,
}

/// Runs all checks; prints what each took, what failed, and the count of the tests last.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let mut checks = Checks::default();
    let mut tally = Tally::default();
    checks.run("prerequisites", dependencies::install);
    if available(workspace, "fmt", "format", &mut tally) {
        checks.run("format", || {
            process::run(workspace.cargo().args(["fmt", "--all", "--check"]))
        });
    }
    checks.run("links", || links::check(&workspace.root));
    checks.run("spelling", || spelling(workspace));
    if available(workspace, "clippy", "lints", &mut tally) {
        checks.run("lints", || lints(workspace));
    }
    checks.run("dependencies", || dependency_rules(workspace));
    checks.run("documentation", || docs::api(workspace));
    checks.run("fuzz targets", || fuzz_targets(workspace));
    checks.run("unit tests", || test::pure(workspace, None, &mut tally));
    checks.run("behaviour tests", || {
        test::behaviour(workspace, false, None, &mut tally)
    });
    if !arguments.no_openclaw {
        checks.run("openclaw", || openclaw::check(workspace, &mut tally));
    }
    checks.print();
    test::conclude(&tally)?;
    Ok(if checks.passed() && tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether cargo has `subcommand`; where it has not, the check is skipped, but not in the
/// continuous integration.
fn available(workspace: &Workspace, subcommand: &str, check: &str, tally: &mut Tally) -> bool {
    let mut command = workspace.cargo();
    command.args([subcommand, "--version"]);
    let there = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there && !in_ci() {
        tally.skip(check, &format!("this Rust has no `cargo {subcommand}`"));
        return false;
    }
    true
}

fn lints(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    command.args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--all-features",
    ]);
    process::run(command.args(["--", "-D", "warnings"]))
}

/// Licences, bans and sources. Not the advisories: their database is a repository that is not
/// reachable from everywhere, and a check must not depend on that.
fn dependency_rules(workspace: &Workspace) -> Result<()> {
    let mut command = Command::new(tools::cargo_deny(workspace, &cache()?)?);
    command.current_dir(&workspace.root);
    process::run(command.args(["--locked", "check", "licenses", "bans", "sources"]))
}

fn spelling(workspace: &Workspace) -> Result<()> {
    let mut command = Command::new(tools::typos(workspace, &cache()?)?);
    process::run(command.current_dir(&workspace.root))
}

/// The fuzz targets must go on compiling; they are no members of the workspace.
fn fuzz_targets(workspace: &Workspace) -> Result<()> {
    let manifest = workspace.root.join("fuzz/Cargo.toml");
    if !manifest.is_file() {
        say("there are no fuzz targets");
        return Ok(());
    }
    let mut command = workspace.cargo();
    command
        .args(["check", "--locked", "--manifest-path"])
        .arg(manifest);
    process::run(&mut command)
}

/// What each check took and how it ended.
#[derive(Debug, Default)]
struct Checks {
    done: Vec<(&'static str, Duration, Result<()>)>,
}

impl Checks {
    fn run(&mut self, name: &'static str, check: impl FnOnce() -> Result<()>) {
        say(&format!("\n== {name}"));
        let started = Instant::now();
        let result = check();
        if let Err(error) = &result {
            say(&format!("{name}: {error:#}"));
        }
        self.done.push((name, started.elapsed(), result));
    }

    fn passed(&self) -> bool {
        self.done.iter().all(|(_, _, result)| result.is_ok())
    }

    fn print(&self) {
        say("");
        for (name, elapsed, result) in &self.done {
            let outcome = match result {
                Ok(()) => "ok".to_owned(),
                Err(error) => format!("FAILED: {}", process::tail(&format!("{error:#}"), 1)),
            };
            say(&format!(
                "{name:<16} {:>6.1} s  {outcome}",
                elapsed.as_secs_f64()
            ));
        }
    }
}
