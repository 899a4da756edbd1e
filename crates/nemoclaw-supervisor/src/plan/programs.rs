//! Which programs may be executed, and by which path the command is.

use nemoclaw_policy::{Compiled, FileAccess, Program, Verdict};
use nemoclaw_sandbox::plan::{Attributes, FileRights};

use super::report::{Lack, Report};
use super::trees::{self, Files};
use super::{PlanError, Request};
use crate::places::{Place, Places, is_within};

/// Rights to execute what the policy names, and the loaders that this takes.
pub(super) fn grant_programs(
    compiled: &Compiled,
    places: &Places,
    files: &mut Files,
    report: &mut Report,
) {
    let denied = |path: &str, named: &str| {
        places.denials.iter().chain(&places.holds).any(|located| {
            let rule = &located.rule;
            rule.access.contains(FileAccess::EXECUTE)
                && (rule.pattern.covers(path) || rule.pattern.covers(named))
        })
    };
    let mut allowed = Vec::new();
    for rule in &compiled.programs {
        match (&rule.program, rule.verdict) {
            (Program::Digest(_), _) => files.for_hooks.push(Lack::new(
                "a rule about a program's digest is not enforced, and grants nothing",
                "name the program by its path; digests need the kernel hooks",
            )),
            (Program::Name(name), Verdict::Allow) => {
                let found = places
                    .programs
                    .get(name)
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                if found.is_empty() {
                    report.note(format!("`{name}` is not on the agent's PATH"));
                }
                for found in found {
                    if !denied(found.place.path(), &found.place.named) {
                        allowed.push(found);
                    }
                }
            }
            _ => {}
        }
    }
    for executable in &allowed {
        grant_program(files, &executable.place);
        if let Some((name, place)) = &executable.interpreter {
            let runnable = place.as_ref().is_some_and(|place| {
                may_execute(files, place.path())
                    || allowed
                        .iter()
                        .any(|other| other.place.path() == place.path())
            });
            if !runnable {
                report.note(format!(
                    "`{}` is a script for `{name}`, which the policy does not allow",
                    executable.place.named
                ));
            }
        }
    }
    let executes = files
        .rights
        .values()
        .any(|rights| !(*rights & FileRights::EXECUTE).is_empty());
    for loader in places.loaders.iter().filter(|_| executes) {
        *files.rights.entry(loader.path().to_owned()).or_default() |= FileRights::EXECUTE;
    }
}

/// A program in a mounted tree needs the right; one that lies elsewhere is
/// mounted alone.
fn grant_program(files: &mut Files, place: &Place) {
    let inside = files
        .trees
        .iter()
        .rev()
        .find(|tree| is_within(place.path(), tree.place.path()));
    if inside.is_none_or(|tree| tree.attributes.no_exec) {
        files.trees.push(trees::Tree {
            place: place.clone(),
            attributes: Attributes {
                read_only: inside.is_none_or(|tree| tree.attributes.read_only),
                ..Attributes::default()
            },
            access: FileAccess::EXECUTE,
        });
    }
    let reached = files.links.keys().any(|link| is_within(&place.named, link))
        || files
            .trees
            .iter()
            .any(|tree| is_within(&place.named, tree.place.path()));
    if place.named != place.path() && !reached {
        files
            .links
            .insert(place.named.clone(), place.path().to_owned());
    }
    *files.rights.entry(place.path().to_owned()).or_default() |= FileRights::EXECUTE;
}

fn may_execute(files: &Files, path: &str) -> bool {
    files.rights.iter().any(|(granted, rights)| {
        is_within(path, granted) && !(*rights & FileRights::EXECUTE).is_empty()
    }) && files
        .covers
        .iter()
        .all(|(covered, cover)| !is_within(path, covered) || !(cover.masked || cover.no_exec))
}

/// The path by which the command is executed inside.
pub(super) fn executable_path(request: &Request<'_>, files: &Files) -> Result<String, PlanError> {
    let command = request.arguments.first().cloned().unwrap_or_default();
    let Some(program) = request.program else {
        return Err(PlanError::NotFound(command));
    };
    if !may_execute(files, program.place.path()) {
        let edit = if command.contains('/') {
            program.place.named.clone()
        } else {
            command.clone()
        };
        return Err(PlanError::NotAllowed { command, edit });
    }
    if let Some((interpreter, place)) = &program.interpreter
        && !place
            .as_ref()
            .is_some_and(|place| may_execute(files, place.path()))
    {
        return Err(PlanError::Interpreter {
            command,
            interpreter: interpreter.clone(),
        });
    }
    Ok(program.place.named.clone())
}
