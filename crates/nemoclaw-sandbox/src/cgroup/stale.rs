//! Names that tell whose a cgroup is, and the removal of those whose supervisor is dead.
//!
//! `<run>.<pid>.<start>.<pid namespace>`: the id alone may be used again, so the start time stands beside it; and a
//! process of another pid namespace cannot be looked up here, so its directories are left alone.

use std::fs;
use std::path::{Path, PathBuf};

use super::layout::{Layout, Owner};
use super::{CgroupError, Directory, GROUP, kill};

/// How the leaf is named into which a supervisor moves itself on v2.
pub(super) const LEAF: &str = "nemoclaw-supervisor";

/// The directory name of a run.
pub(super) fn directory_name(run: &str, owner: &Owner) -> Result<String, CgroupError> {
    let fits = (1..=100).contains(&run.len())
        && run
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if !fits {
        return Err(CgroupError::Name(run.to_owned()));
    }
    Ok(format!("{run}.{}", owner.tag()))
}

/// Ends and removes what dead supervisors have left in the places of `layout`; returns what was removed.
///
/// Directories of living supervisors, of other pid namespaces and of anyone else are not touched. What cannot be
/// removed stays for the next sweep.
#[must_use]
pub fn sweep(layout: &Layout, proc: &Path) -> Vec<PathBuf> {
    if layout.owner.start == 0 || layout.owner.pid_namespace == 0 {
        // `/proc` told nothing of ourselves: who lives and who does not cannot be told either.
        return Vec::new();
    }
    let unified = layout
        .unified
        .iter()
        .flat_map(|unified| &unified.place)
        .map(|place| (&place.path, true));
    let legacy = layout.legacy.iter().map(|tree| (&tree.own, false));
    let mut removed = Vec::new();
    for (base, unified) in unified.chain(legacy) {
        let group = base.join(GROUP);
        for path in stale(&group, &layout.owner, proc, |_| true) {
            let directory = Directory {
                path: path.clone(),
                unified,
                controllers: Vec::new(),
            };
            if kill::kill(&[directory]).is_ok() && kill::remove(&path).is_ok() {
                removed.push(path);
            }
        }
        // Leaves hold nothing but a supervisor, which is dead: only empty ones are removed, nothing is killed.
        for path in stale(base, &layout.owner, proc, |run| run == LEAF) {
            if fs::remove_dir(&path).is_ok() {
                removed.push(path);
            }
        }
        let _ = fs::remove_dir(&group);
    }
    removed
}

fn stale(parent: &Path, owner: &Owner, proc: &Path, ours: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(parse)
                .is_some_and(|(run, other)| {
                    ours(run) && other.pid_namespace == owner.pid_namespace && !other.lives(proc)
                })
        })
        .map(|entry| entry.path())
        .collect()
}

/// The run and the supervisor of a directory name.
fn parse(name: &str) -> Option<(&str, Owner)> {
    let mut fields = name.split('.');
    let (run, pid, start, namespace) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    if fields.next().is_some() {
        return None;
    }
    let owner = Owner {
        pid: pid.parse().ok()?,
        start: start.parse().ok()?,
        pid_namespace: namespace.parse().ok()?,
    };
    Some((run, owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_name_is_read_back_and_a_strange_run_name_is_refused() {
        let owner = Owner {
            pid: 12,
            start: 345,
            pid_namespace: 4026531836,
        };
        let name = directory_name("run-1_a", &owner).unwrap();
        assert_eq!(name, "run-1_a.12.345.4026531836");
        assert_eq!(parse(&name), Some(("run-1_a", owner.clone())));
        for bad in ["", "a/b", "..", "a.b", "a b", "ä", &"x".repeat(101)] {
            assert!(
                matches!(directory_name(bad, &owner), Err(CgroupError::Name(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn only_directories_of_dead_supervisors_of_this_pid_namespace_are_stale() {
        let base = tempfile::tempdir().unwrap();
        let proc = base.path().join("proc");
        fs::create_dir_all(proc.join("12")).unwrap();
        fs::write(proc.join("12/stat"), stat(12, 345)).unwrap();
        let owner = Owner {
            pid: 99,
            start: 1,
            pid_namespace: 7,
        };
        let group = base.path().join("group");
        for name in [
            "alive.12.345.7",
            "reused.12.344.7",
            "dead.13.9.7",
            "elsewhere.13.9.8",
            "stranger",
            "a.b.c.d",
        ] {
            fs::create_dir_all(group.join(name)).unwrap();
        }
        let mut found = stale(&group, &owner, &proc, |_| true);
        found.sort();
        assert_eq!(
            found,
            [group.join("dead.13.9.7"), group.join("reused.12.344.7")]
        );
    }

    fn stat(pid: u32, start: u64) -> String {
        format!("{pid} (a ) b) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {start} 1 1\n")
    }
}
