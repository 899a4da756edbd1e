//! Measurements. What is compared runs in turns within one run, so that whatever else the machine
//! does weighs on all alike.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{run_within, tail};
use crate::workspace::{Workspace, find_program};

/// Allows `true`, in a directory that may be read, and nothing else.
const POLICY: &str = r#"agent_policy:
  version: 1
  name: "bench"
  allowed_actions:
    - read_files: ["${workdir}/*"]
    - execute_code: ["true"]
  enforcement:
    cgroups: best_effort
"#;
/// No launch takes this long.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// From launch to exit of `true`: bare, in the sandbox and, where installed, in bubblewrap
    Launch {
        /// How many times each is run
        #[arg(long, default_value_t = 51, value_parser = clap::value_parser!(u16).range(1..))]
        rounds: u16,
    },
}

pub(crate) fn run(workspace: &Workspace, command: &Command) -> Result<()> {
    match command {
        Command::Launch { rounds } => launch(workspace, *rounds),
    }
}

/// One way to start `true`, and how long each start took.
struct Contender {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    times: Vec<Duration>,
}

fn launch(workspace: &Workspace, rounds: u16) -> Result<()> {
    let programs = workspace.build_release()?;
    let place = workspace.target.join("bench");
    fs::create_dir_all(&place)
        .with_context(|| format!("could not create `{}`", place.display()))?;
    let policy = place.join("policy.yaml");
    fs::write(&policy, POLICY)?;
    let mut contenders = contenders(&programs, &policy)?;
    for _ in 0..rounds {
        for contender in &mut contenders {
            contender.start(&place)?;
        }
    }
    report(&mut contenders, rounds)
}

fn contenders(programs: &Path, policy: &Path) -> Result<Vec<Contender>> {
    let bare = find_program("true").context("there is no `true` on PATH")?;
    let contender = |name, program, arguments: &[&str]| Contender {
        name,
        program,
        arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
        times: Vec::new(),
    };
    let policy = policy.to_string_lossy();
    let mut contenders = vec![
        contender("bare", bare, &[]),
        contender(
            "nemoclaw",
            programs.join("nemoclaw-supervisor"),
            &["run", "--policy", &policy, "--", "true"],
        ),
    ];
    if let Some(bwrap) = find_program("bwrap") {
        contenders.push(contender(
            "bwrap",
            bwrap,
            &[
                "--unshare-all",
                "--ro-bind",
                "/",
                "/",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "true",
            ],
        ));
    }
    Ok(contenders)
}

impl Contender {
    fn start(&mut self, directory: &Path) -> Result<()> {
        let mut command = process::Command::new(&self.program);
        command.args(&self.arguments).current_dir(directory);
        let finished = run_within(&mut command, LIMIT)?;
        if !finished.status.success() {
            bail!(
                "{} failed: {}\n{}",
                self.name,
                finished.status,
                tail(&finished.stderr, 20)
            );
        }
        // Until the program ended; its output is read to the end after that.
        self.times.push(finished.elapsed);
        Ok(())
    }
}

fn report(contenders: &mut [Contender], rounds: u16) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "launch to exit of `true`, {rounds} rounds")?;
    writeln!(
        out,
        "{:<10} {:>10} {:>10} {:>8}",
        "", "median ms", "p90 ms", "ratio"
    )?;
    let mut base = None;
    for contender in contenders {
        contender.times.sort_unstable();
        let median = milliseconds(quantile(&contender.times, 50));
        let base = *base.get_or_insert(median);
        writeln!(
            out,
            "{:<10} {median:>10.2} {:>10.2} {:>8.2}",
            contender.name,
            milliseconds(quantile(&contender.times, 90)),
            median / base
        )?;
    }
    Ok(())
}

/// The smallest of `sorted` that at least `percent` of them do not exceed; zero when empty.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_that_is_measured_is_accepted() {
        nemoclaw_policy::Policy::parse(POLICY).unwrap();
    }

    #[test]
    fn a_quantile_is_one_of_the_measured_values() {
        let times: Vec<Duration> = (1..=5).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 50), Duration::from_millis(3));
        assert_eq!(quantile(&times, 90), Duration::from_millis(5));
        assert_eq!(quantile(&times[..1], 50), Duration::from_millis(1));
        assert_eq!(quantile(&[], 50), Duration::ZERO);
    }
}
