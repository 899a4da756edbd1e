//! One real turn of OpenClaw, in the sandbox or (with `--bare`) without it.

mod endpoint;
mod install;
mod turn;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use self::install::Installation;
use self::turn::Jail;
use crate::process::{self, say};
use crate::report::Tally;
use crate::test::{Stage, copy_programs};
use crate::workspace::{Owner, Workspace, cache, is_root};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run without the sandbox, to see what OpenClaw does by itself
    #[arg(long, conflicts_with = "install_only")]
    bare: bool,
    /// Install OpenClaw and stop
    #[arg(long)]
    install_only: bool,
}

/// Installs OpenClaw, builds the supervisor and runs one turn.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let cache = cache()?;
    let installation = install::install(workspace, &cache)?;
    if arguments.install_only {
        say(&format!(
            "OpenClaw is in {}",
            installation.programs.display()
        ));
        return Ok(());
    }
    let jail = if arguments.bare {
        Jail::None
    } else {
        Jail::Supervisor {
            programs: workspace.build_release()?,
            policy: workspace.root.join("policies/openclaw.yaml"),
            cache,
        }
    };
    take(&installation, &jail, &home(workspace)?)
}

/// The directory for the files of a turn: in the checkout, where the person who started us reaches it
/// even behind sudo, and one for each user, because what root left nobody else can empty.
fn home(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.root.join("target");
    if !target.exists() {
        fs::create_dir(&target)
            .with_context(|| format!("could not create `{}`", target.display()))?;
        Owner::invoking().take(&target)?;
    }
    let user = rustix::process::geteuid().as_raw();
    Ok(target.join(format!("openclaw-{user}")))
}

/// A turn as whoever we are and, for root, one as an ordinary user; each counts as a test.
pub(crate) fn check(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let arguments = Arguments {
        bare: false,
        install_only: false,
    };
    let mut count = |result: Result<()>| {
        match result {
            Ok(()) => tally.passed += 1,
            Err(_) => tally.failed += 1,
        }
        result
    };
    let own = count(run(workspace, &arguments));
    let other = if is_root() {
        count(as_ordinary_user(workspace))
    } else {
        Ok(())
    };
    own.and(other.context("as an ordinary user"))
}

/// What a turn needs when the checkout and the cache are out of reach.
#[derive(Debug, clap::Args)]
pub(crate) struct TurnArguments {
    /// The directory of our programs
    #[arg(long)]
    programs: PathBuf,
    /// The policy as shipped
    #[arg(long)]
    policy: PathBuf,
    /// The cache that holds OpenClaw
    #[arg(long)]
    cache: PathBuf,
    /// The directory for the turn's files
    #[arg(long)]
    home: PathBuf,
}

/// Runs one turn with everything given.
pub(crate) fn turn(arguments: TurnArguments) -> Result<()> {
    let installation = Installation {
        programs: install::programs(&arguments.cache),
    };
    let jail = Jail::Supervisor {
        programs: arguments.programs,
        policy: arguments.policy,
        cache: arguments.cache,
    };
    take(&installation, &jail, &arguments.home)
}

fn take(installation: &Installation, jail: &Jail, home: &Path) -> Result<()> {
    let turn = turn::take(installation, jail, home)?;
    say(&turn.to_string());
    Ok(())
}

/// Stages programs, policy and OpenClaw where an ordinary user reaches them, and has this program
/// run the turn as one.
fn as_ordinary_user(workspace: &Workspace) -> Result<()> {
    let stage = Stage::empty("openclaw")?;
    let programs = stage.root.join("bin");
    copy_programs(&workspace.target.join("release"), &programs)?;
    let policy = stage.root.join("openclaw.yaml");
    fs::copy(workspace.root.join("policies/openclaw.yaml"), &policy)?;
    let runner = stage.root.join("xtask");
    fs::copy(env::current_exe()?, &runner)?;
    let cache = stage.root.join("cache");
    fs::create_dir(&cache)?;
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755))?;
    let installed = crate::workspace::cache()?.join("openclaw");
    let copy = |how| process::run(Command::new("cp").arg(how).arg(&installed).arg(&cache));
    // Hard links cost nothing, but need one file system.
    copy("-al").or_else(|_| copy("-a"))?;
    let mut command = stage.as_ordinary_user(&runner)?;
    let home = stage.root.join("home/turn");
    command.arg("turn");
    for (name, path) in [
        ("--programs", &programs),
        ("--policy", &policy),
        ("--cache", &cache),
        ("--home", &home),
    ] {
        command.arg(name).arg(path);
    }
    process::run(&mut command)
}
