//! Policies as files: reading, and what the text leaves open.

use std::path::Path;

use anyhow::Context;
use nemoclaw_policy::{Bindings, BoundPolicy, Policy};

use crate::facts::Person;

pub(crate) fn load(path: &Path) -> anyhow::Result<(Policy, String)> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read policy `{}`", path.display()))?;
    match Policy::parse(&text) {
        Ok(policy) => Ok((policy, text)),
        Err(diagnostics) => anyhow::bail!("{}", diagnostics.render(&path.to_string_lossy())),
    }
}

pub(crate) fn bind(
    policy: &Policy,
    current: &Path,
    person: &Person,
) -> anyhow::Result<BoundPolicy> {
    let workdir = match policy.workdir.path.strip_prefix("~") {
        Some(rest) => Path::new(&person.home).join(rest.trim_start_matches('/')),
        None => current.join(&policy.workdir.path),
    };
    let workdir = workdir.canonicalize().with_context(|| {
        format!(
            "could not find the working directory `{}`",
            workdir.display()
        )
    })?;
    let home = std::fs::canonicalize(&person.home).unwrap_or_else(|_| person.home.clone().into());
    Ok(policy.bind(&Bindings {
        home: &home.to_string_lossy(),
        workdir: &workdir.to_string_lossy(),
    })?)
}
