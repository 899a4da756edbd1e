//! The checking tools that cargo does not bring: fetched once, at a fixed version, into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{self, say};
use crate::workspace::Workspace;

/// Checks licences, duplicate and banned crates, and where crates come from.
const CARGO_DENY: &str = "0.20.2";
/// Finds spelling mistakes; the same version on PyPI (`typos`) and crates.io (`typos-cli`).
const TYPOS: &str = "1.52.0";

/// The path of cargo-deny, built from crates.io when the cache has none.
///
/// Without optimisation and without its default features this takes about 85 seconds of processor
/// time, and the tool needs no speed. PyPI carries only a version that knows no current licence
/// names.
pub(crate) fn cargo_deny(workspace: &Workspace, cache: &Path) -> Result<PathBuf> {
    let place = cache.join(format!("tools/cargo-deny-{CARGO_DENY}"));
    once(&place, "bin/cargo-deny", |draft| {
        build(
            workspace,
            &format!("cargo-deny@{CARGO_DENY}"),
            draft,
            &["--no-default-features"],
        )
    })
}

/// The path of typos: from PyPI, which has it built, else built from crates.io.
pub(crate) fn typos(workspace: &Workspace, cache: &Path) -> Result<PathBuf> {
    let place = cache.join(format!("tools/typos-{TYPOS}"));
    once(&place, "bin/typos", |draft| {
        if pip_works() {
            let mut pip = pip();
            pip.args([
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--target",
            ]);
            pip.arg(draft).arg(format!("typos=={TYPOS}"));
            match process::run(&mut pip) {
                Ok(()) => return Ok(()),
                Err(error) => say(&format!("{error:#}; building typos from crates.io instead")),
            }
        }
        build(workspace, &format!("typos-cli@{TYPOS}"), draft, &[])
    })
}

/// `place`/`program`, made by `fill` in a draft beside it when it is not there.
fn once(place: &Path, program: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let path = place.join(program);
    if path.is_file() {
        return Ok(path);
    }
    let draft = place.with_extension(format!("draft-{}", std::process::id()));
    fs::create_dir_all(&draft)
        .with_context(|| format!("could not create `{}`", draft.display()))?;
    let result = fill(&draft).and_then(|()| {
        if !draft.join(program).is_file() {
            bail!("the package brought no `{program}`");
        }
        if place.exists() {
            fs::remove_dir_all(place)?;
        }
        Ok(fs::rename(&draft, place)?)
    });
    if draft.exists() {
        // The first error is the one to tell; a left-over draft is only disk space.
        let _ = fs::remove_dir_all(&draft);
    }
    result.with_context(|| format!("could not provide `{program}`"))?;
    Ok(path)
}

fn build(workspace: &Workspace, package: &str, root: &Path, options: &[&str]) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args([
            "install", package, "--locked", "--debug", "--quiet", "--root",
        ])
        .arg(root)
        .args(options)
        .env("CARGO_TARGET_DIR", workspace.target.join("tools"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    process::run(&mut command)
}

fn pip() -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip"]);
    command
}

fn pip_works() -> bool {
    pip()
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
