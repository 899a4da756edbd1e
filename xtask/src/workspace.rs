//! Where things are: the checkout, the build output, the cache, and who started us.

use std::env;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The checkout that this program was built from, and its build output.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo where the workspace is.
    pub(crate) fn find() -> Result<Self> {
        let metadata = cargo_metadata::MetadataCommand::new()
            .no_deps()
            .exec()
            .context(
                "could not read the workspace's metadata; run this inside the checkout, as `cargo xtask`",
            )?;
        Ok(Self {
            root: metadata.workspace_root.into(),
            target: metadata.target_directory.into(),
        })
    }

    /// A cargo command in the workspace; the cargo that started us, with our own variables removed.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        // What `cargo run` set for this program must not reach the packages that are built next:
        // a changed value would rebuild those whose build scripts read it.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Builds the programs people run, optimised; answers the directory that holds them.
    pub(crate) fn build_release(&self) -> Result<PathBuf> {
        let mut command = self.cargo();
        command.args(["build", "--release", "--locked", "--bins"]);
        process::run(&mut command)?;
        let programs = self.target.join("release");
        short_name(&programs)?;
        Ok(programs)
    }
}

/// Gives the program its second name. It finds its fellows beside the file that it really is, so a link will do.
fn short_name(programs: &Path) -> Result<()> {
    const PROGRAM: &str = "nemoclaw-supervisor";
    let link = programs.join("nemoclaw");
    if fs::read_link(&link).is_ok_and(|there| there == Path::new(PROGRAM)) {
        return Ok(());
    }
    symlink(PROGRAM, &link).with_context(|| format!("could not make the link `{}`", link.display()))
}

/// The directory for what is downloaded or built once: `$XDG_CACHE_HOME/nemoclaw` or
/// `~/.cache/nemoclaw`.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from) {
        Some(path) if path.is_absolute() => path,
        _ => PathBuf::from(
            env::var_os("HOME")
                .context("neither `XDG_CACHE_HOME` nor `HOME` is set; set one of them")?,
        )
        .join(".cache"),
    };
    let cache = base.join("nemoclaw");
    fs::create_dir_all(&cache)
        .with_context(|| format!("could not create `{}`", cache.display()))?;
    Ok(cache)
}

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

impl Owner {
    /// Who started us: the person behind `sudo`, or the user of this process.
    pub(crate) fn invoking() -> Self {
        let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
        match (is_root(), number("SUDO_UID"), number("SUDO_GID")) {
            (true, Some(user), Some(group)) => Self { user, group },
            _ => Self {
                user: rustix::process::getuid().as_raw(),
                group: rustix::process::getgid().as_raw(),
            },
        }
    }

    /// Makes the file or directory at `path` (not what is in it) belong to this user.
    pub(crate) fn take(self, path: &Path) -> Result<()> {
        chown(path, Some(self.user), Some(self.group))
            .with_context(|| format!("could not give `{}` to user {}", path.display(), self.user))
    }
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this is the continuous integration, where nothing may be skipped unseen.
pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Where `program` is on `PATH`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
