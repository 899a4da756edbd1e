//! Generates what people read: the manual pages, the shell completions, the API documentation.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{self, say};
use crate::workspace::Workspace;

/// Writes manual pages to `target/man`, completions to `target/completions`, and the API
/// documentation to `target/doc`.
pub(crate) fn generate(workspace: &Workspace) -> Result<()> {
    let programs = workspace.build_release()?;
    for kind in ["man", "completions"] {
        let place = workspace.target.join(kind);
        fs::create_dir_all(&place)
            .with_context(|| format!("could not create `{}`", place.display()))?;
        process::run(
            Command::new(programs.join("nemoclaw-supervisor"))
                .args(["generate", kind])
                .arg(&place),
        )?;
        say(&format!("wrote {}", place.display()));
    }
    api(workspace)
}

/// Builds the API documentation; a warning is an error.
pub(crate) fn api(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args(["doc", "--locked", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    process::run(&mut command)
}
