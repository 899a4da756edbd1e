//! Files with more than one name (link(2)). A rule speaks of paths, but what it protects is the file: a second name
//! would lead round a cover, and a name in the workspace can belong to a file that lies elsewhere too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nemoclaw_policy::FileAccess;

use super::{
    Kind, Located, Place, Places, PlacesError, entries, follow, is_within, outermost, status,
};

/// Entries of the trees that an agent may write that are looked at for files with names elsewhere: a launch does not
/// wait for a workspace of millions.
const LOOKED_AT: usize = 100_000;
/// Paths that are given as examples.
const EXAMPLES: usize = 3;

/// Device and inode.
type Identity = (u64, u64);

/// Files that the agent may write and that have a name where it may not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NamedElsewhere {
    pub(crate) count: usize,
    /// The first of them.
    pub(crate) examples: Vec<String>,
    /// Whether there are files that were not looked at: too many of them, or a closed directory.
    pub(crate) partial: bool,
}

/// Has what is refused of a file refused at all of its names in the trees that the policy grants (`own`).
pub(super) fn cover_every_name(
    places: &mut Places,
    own: &[String],
    budget: &mut usize,
) -> Result<(), PlacesError> {
    let own = outermost(own);
    let mut wanted = BTreeSet::new();
    let refusals = places.denials.iter().chain(&places.holds);
    let refused = refusals.flat_map(|located| &located.places);
    for place in refused.chain(&places.guarded).chain(&places.hidden) {
        wanted.extend(identities(place, &own, budget)?);
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let mut names = Names::default();
    for tree in &own {
        names.walk(Path::new(tree), budget)?;
    }
    let lists = places.denials.iter_mut().chain(&mut places.holds);
    for list in lists
        .map(|located| &mut located.places)
        .chain([&mut places.guarded, &mut places.hidden])
    {
        let mut others = Vec::new();
        for place in list.iter() {
            for identity in identities(place, &own, budget)? {
                for path in names.of(identity) {
                    let path = path.to_str().ok_or_else(|| PlacesError::NotText {
                        path: path.to_string_lossy().into_owned(),
                    })?;
                    if !list.iter().any(|place| is_within(path, place.path())) {
                        others.extend(follow(path)?);
                    }
                }
            }
        }
        list.extend(others);
        list.sort();
        list.dedup();
    }
    Ok(())
}

/// The files with several names that a place is or, as a granted directory, holds.
fn identities(
    place: &Place,
    own: &[&str],
    budget: &mut usize,
) -> Result<BTreeSet<Identity>, PlacesError> {
    let mut names = Names::default();
    match place.kind {
        Kind::File => {
            if let Some(status) = status(Path::new(place.path()))? {
                names.note(Path::new(place.path()), &status);
            }
        }
        Kind::Directory if own.iter().any(|tree| is_within(place.path(), tree)) => {
            names.walk(Path::new(place.path()), budget)?;
        }
        _ => {}
    }
    Ok(names.0.into_keys().collect())
}

/// Files in the trees that are granted for writing whose names there are not all that they have.
pub(super) fn named_elsewhere(grants: &[Located]) -> NamedElsewhere {
    let change = FileAccess::WRITE;
    let writable: Vec<String> = grants
        .iter()
        .filter(|grant| !grant.rule.private && grant.rule.access.intersects(change))
        .flat_map(|grant| &grant.places)
        .map(|place| place.path().to_owned())
        .collect();
    let mut names = Names::default();
    let mut budget = LOOKED_AT;
    let whole = outermost(&writable)
        .into_iter()
        .all(|tree| names.walk(Path::new(tree), &mut budget).is_ok());
    let mut found: Vec<&PathBuf> = names
        .0
        .values()
        .filter(|file| u64::try_from(file.paths.len()).is_ok_and(|count| count < file.links))
        .filter_map(|file| file.paths.first())
        .collect();
    found.sort();
    NamedElsewhere {
        count: found.len(),
        examples: found
            .iter()
            .take(EXAMPLES)
            .map(|path| path.to_string_lossy().into_owned())
            .collect(),
        partial: !whole,
    }
}

/// Files with several names, by identity.
#[derive(Debug, Default)]
struct Names(BTreeMap<Identity, File>);

#[derive(Debug)]
struct File {
    /// How many names it has.
    links: u64,
    /// Those that were found.
    paths: Vec<PathBuf>,
}

impl Names {
    /// Not following symbolic links.
    fn walk(&mut self, tree: &Path, budget: &mut usize) -> Result<(), PlacesError> {
        let mut waiting = vec![tree.to_owned()];
        while let Some(path) = waiting.pop() {
            let Some(status) = status(&path)? else {
                continue;
            };
            if status.is_dir() {
                waiting.extend(entries(&path, budget)?);
            } else {
                self.note(&path, &status);
            }
        }
        Ok(())
    }

    fn note(&mut self, path: &Path, status: &Metadata) {
        if status.is_file() && status.nlink() > 1 {
            let file = self
                .0
                .entry((status.dev(), status.ino()))
                .or_insert_with(|| File {
                    links: status.nlink(),
                    paths: Vec::new(),
                });
            file.paths.push(path.to_owned());
        }
    }

    fn of(&self, identity: Identity) -> &[PathBuf] {
        self.0
            .get(&identity)
            .map(|file| file.paths.as_slice())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nemoclaw_policy::{PathPattern, PathRule, RuleId};

    use super::*;

    fn located(pattern: &str, access: FileAccess) -> Located {
        let pattern = PathPattern::parse(pattern).unwrap();
        let place = follow(pattern.anchor.as_str()).unwrap();
        Located {
            rule: PathRule {
                rule: RuleId(1),
                access,
                pattern,
                private: false,
            },
            places: place.into_iter().collect(),
            open_ended: false,
        }
    }

    /// A directory at its canonical path, as places have it.
    fn directory() -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        (directory, path.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_refused_of_a_file_is_refused_at_each_of_its_names() {
        let (_guard, root) = directory();
        fs::create_dir_all(format!("{root}/keys")).unwrap();
        fs::create_dir_all(format!("{root}/deep/er")).unwrap();
        fs::write(format!("{root}/secret"), "").unwrap();
        fs::write(format!("{root}/keys/id"), "").unwrap();
        fs::write(format!("{root}/open"), "").unwrap();
        fs::hard_link(format!("{root}/secret"), format!("{root}/deep/er/innocent")).unwrap();
        fs::hard_link(format!("{root}/keys/id"), format!("{root}/copy")).unwrap();
        fs::hard_link(format!("{root}/open"), format!("{root}/opened")).unwrap();
        let mut places = Places {
            denials: vec![
                located(&format!("{root}/secret"), FileAccess::READ),
                located(&format!("{root}/keys/*"), FileAccess::READ),
            ],
            ..Places::default()
        };
        cover_every_name(&mut places, std::slice::from_ref(&root), &mut 1000).unwrap();
        let paths: Vec<Vec<&str>> = places
            .denials
            .iter()
            .map(|denial| {
                let paths = denial.places.iter().map(Place::path);
                paths.map(|path| path.trim_start_matches(&root)).collect()
            })
            .collect();
        assert_eq!(
            paths,
            [vec!["/deep/er/innocent", "/secret"], vec!["/copy", "/keys"]]
        );
    }

    #[test]
    fn a_name_that_no_plan_can_write_stops_the_launch() {
        use std::os::unix::ffi::OsStrExt;
        let (_guard, root) = directory();
        fs::write(format!("{root}/secret"), "").unwrap();
        let odd = Path::new(&root).join(std::ffi::OsStr::from_bytes(b"\xff"));
        fs::hard_link(format!("{root}/secret"), odd).unwrap();
        let mut places = Places {
            denials: vec![located(&format!("{root}/secret"), FileAccess::READ)],
            ..Places::default()
        };
        let refused = cover_every_name(&mut places, &[root], &mut 1000);
        assert!(
            matches!(refused, Err(PlacesError::NotText { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn files_with_a_name_outside_the_writable_trees_are_counted() {
        let (_guard, root) = directory();
        fs::create_dir(format!("{root}/work")).unwrap();
        fs::write(format!("{root}/outside"), "").unwrap();
        fs::write(format!("{root}/work/one"), "").unwrap();
        fs::hard_link(format!("{root}/work/one"), format!("{root}/work/two")).unwrap();
        fs::hard_link(format!("{root}/outside"), format!("{root}/work/inside")).unwrap();
        let grants = [located(&format!("{root}/work/*"), FileAccess::WRITE)];
        assert_eq!(
            named_elsewhere(&grants),
            NamedElsewhere {
                count: 1,
                examples: vec![format!("{root}/work/inside")],
                partial: false,
            }
        );
        // What may only be read cannot be changed under any name.
        let grants = [located(&format!("{root}/work/*"), FileAccess::READ)];
        assert_eq!(named_elsewhere(&grants), NamedElsewhere::default());
    }
}
