//! From rules and places to what is mounted how, what is covered, and which
//! rights Landlock grants: the part of planning that decides what the agent sees.
//!
//! Three things hold for every place at once: the mount's attributes, a cover if
//! something in it is denied, and the Landlock rights. They are made from the
//! same list of grants, so they cannot disagree.

use std::collections::{BTreeMap, BTreeSet};

use nemoclaw_policy::{FileAccess, Tail};
use nemoclaw_sandbox::plan::{Attributes, FileRights};

use super::PlanError;
use super::report::{Lack, Report};
use crate::places::{Kind, Located, Place, Places, is_within, outermost};

/// A host tree in the private root.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tree {
    pub(super) place: Place,
    pub(super) attributes: Attributes,
    pub(super) access: FileAccess,
}

/// What is done to a path after the trees are mounted. With nothing set the path
/// stays as it is but cannot be renamed or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cover {
    /// Covered by something that cannot be opened.
    pub(super) masked: bool,
    pub(super) directory: bool,
    pub(super) read_only: bool,
    pub(super) no_exec: bool,
}

/// Everything about files.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Files {
    /// Outer before inner.
    pub(super) trees: Vec<Tree>,
    /// Symbolic links by which the policy's names lead to the places: path, target.
    pub(super) links: BTreeMap<String, String>,
    pub(super) covers: BTreeMap<String, Cover>,
    /// Landlock rights by path.
    pub(super) rights: BTreeMap<String, FileRights>,
    /// What only the kernel hooks could hold.
    pub(super) for_hooks: Vec<Lack>,
}

/// A grant at one place after the denials that cover it wholly.
struct Grant<'a> {
    place: &'a Place,
    access: FileAccess,
    built_in: bool,
}

/// Decides.
pub(super) fn decide(places: &Places, report: &mut Report) -> Result<Files, PlanError> {
    let grants = remaining_grants(places, report);
    refuse_planted_links(&grants, &places.hidden)?;
    let mut files = Files {
        trees: mounted_trees(&grants),
        ..Files::default()
    };
    let trees: Vec<&str> = files.trees.iter().map(|tree| tree.place.path()).collect();
    files.links = links(grants.iter().map(|grant| grant.place).collect(), &trees);
    for grant in &grants {
        let rights = rights(grant.access, grant.place.kind);
        *files
            .rights
            .entry(grant.place.path().to_owned())
            .or_default() |= rights;
    }
    cover_denied(places, &grants, &mut files, report);
    pin_parents(&mut files);
    drop_unreachable(&mut files);
    Ok(files)
}

/// Grants less what a denial withholds of the whole place.
fn remaining_grants<'a>(places: &'a Places, report: &mut Report) -> Vec<Grant<'a>> {
    let refusals: Vec<&Located> = places.denials.iter().chain(&places.holds).collect();
    let mut grants = Vec::new();
    for located in &places.grants {
        if located.rule.private {
            continue;
        }
        if located.rule.pattern.tail == Tail::Name {
            report.note(format!(
                "the rule `{}` grants nothing: a bare file name can only be denied; \
                 write where, such as `${{workdir}}/**/{}`",
                located.rule.pattern, located.rule.pattern
            ));
        } else if located.places.is_empty() && !located.rule.rule.is_built_in() {
            report.note(format!(
                "the rule `{}` grants nothing: there is no such path",
                located.rule.pattern
            ));
        }
        for place in &located.places {
            let mut access = located.rule.access;
            for refusal in &refusals {
                let pattern = &refusal.rule.pattern;
                if pattern.covers(place.path()) || pattern.covers(&place.named) {
                    access = access.without(refusal.rule.access);
                }
            }
            if place.kind == Kind::Other && !located.rule.rule.is_built_in() {
                report.note(format!(
                    "`{}` is a socket or a pipe and is left out",
                    place.path()
                ));
            } else if !access.is_empty() {
                grants.push(Grant {
                    place,
                    access,
                    built_in: located.rule.rule.is_built_in(),
                });
            }
        }
    }
    grants.sort_by_key(|grant| (depth(grant.place.path()), grant.place.path().to_owned()));
    grants
}

/// A link that lies where an agent may write decides nothing: an earlier agent
/// may have put it there to be given what it leads to.
fn refuse_planted_links(grants: &[Grant<'_>], hidden: &[Place]) -> Result<(), PlanError> {
    let writable: Vec<&str> = grants
        .iter()
        .filter(|grant| {
            grant
                .access
                .intersects(FileAccess::WRITE | FileAccess::DELETE)
        })
        .map(|grant| grant.place.path())
        .collect();
    for place in grants.iter().map(|grant| grant.place).chain(hidden) {
        for link in &place.links {
            if let Some(tree) = writable.iter().find(|tree| is_within(link, tree)) {
                return Err(PlanError::PlantedLink {
                    path: place.named.clone(),
                    link: link.clone(),
                    tree: (*tree).to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// What is granted at a path by the grants that hold it.
fn access_at(grants: &[Grant<'_>], path: &str) -> FileAccess {
    grants
        .iter()
        .filter(|grant| is_within(path, grant.place.path()))
        .fold(FileAccess::NONE, |access, grant| access | grant.access)
}

/// One mount for each place whose attributes differ from those of the tree that
/// it lies in.
fn mounted_trees(grants: &[Grant<'_>]) -> Vec<Tree> {
    let mut trees: Vec<Tree> = Vec::new();
    for grant in grants {
        let path = grant.place.path();
        let access = access_at(grants, path);
        let outer = trees
            .iter()
            .rev()
            .find(|tree| is_within(path, tree.place.path()));
        // Libraries are mapped executable, so the system runtime cannot be
        // without; what may be executed there is Landlock's matter.
        let runtime = grants
            .iter()
            .any(|other| other.built_in && is_within(path, other.place.path()));
        let attributes = Attributes {
            read_only: !access.intersects(FileAccess::WRITE | FileAccess::DELETE),
            no_exec: !access.contains(FileAccess::EXECUTE) && !runtime,
            devices: false,
        };
        if outer.is_none_or(|outer| outer.attributes != attributes) {
            trees.push(Tree {
                place: grant.place.clone(),
                attributes,
                access,
            });
        }
    }
    trees
}

/// Names that lead to a place by links that are not themselves in the root: path and target. `trees` are mounted.
pub(super) fn links(mut named: Vec<&Place>, trees: &[&str]) -> BTreeMap<String, String> {
    let mut links: BTreeMap<String, String> = BTreeMap::new();
    named.sort_by_key(|place| depth(&place.named));
    for place in named {
        let reached = links.keys().any(|link| is_within(&place.named, link))
            || trees.iter().any(|tree| is_within(&place.named, tree));
        if place.named != place.path() && !reached {
            links.insert(place.named.clone(), place.path().to_owned());
        }
    }
    links
}

/// Covers what is denied inside what is granted.
fn cover_denied(places: &Places, grants: &[Grant<'_>], files: &mut Files, report: &mut Report) {
    for refusal in places.denials.iter().chain(&places.holds) {
        for place in &refusal.places {
            cover(place, refusal.rule.access, grants, files, report);
        }
        unenforced(refusal, grants, files);
    }
    for place in &places.hidden {
        cover(place, FileAccess::ALL, grants, files, report);
    }
    for place in &places.guarded {
        cover(
            place,
            FileAccess::WRITE | FileAccess::DELETE,
            grants,
            files,
            report,
        );
    }
}

fn cover(
    place: &Place,
    denied: FileAccess,
    grants: &[Grant<'_>],
    files: &mut Files,
    report: &mut Report,
) {
    let path = place.path();
    let granted = access_at(grants, path);
    let withheld = denied & granted;
    if withheld.is_empty() {
        return;
    }
    let change = FileAccess::WRITE | FileAccess::DELETE;
    let directory = place.kind == Kind::Directory;
    let cover = files.covers.entry(path.to_owned()).or_default();
    cover.directory = directory;
    let also = if withheld.contains(FileAccess::READ) {
        cover.masked = true;
        granted.without(withheld)
    } else {
        cover.no_exec |= withheld.contains(FileAccess::EXECUTE);
        // The mount point alone keeps a file from being unlinked or renamed.
        if withheld & change != FileAccess::DELETE || directory {
            cover.read_only |= withheld.intersects(change);
        }
        if cover.read_only {
            (granted & change).without(withheld)
        } else {
            FileAccess::NONE
        }
    };
    if !also.is_empty() {
        let also: Vec<&str> = also.words().collect();
        report.note(format!(
            "stricter than the policy: `{path}` also loses {}, which mounts cannot separate from \
             what is denied",
            also.join(" and ")
        ));
    }
}

/// What may come to be and is denied then; only hooks see names as they appear.
fn unenforced(refusal: &Located, grants: &[Grant<'_>], files: &mut Files) {
    if !refusal.open_ended {
        return;
    }
    let pattern = &refusal.rule.pattern;
    let reachable = match pattern.tail {
        Tail::This | Tail::Beneath => access_at(grants, pattern.anchor.as_str()),
        Tail::Glob | Tail::Name => grants
            .iter()
            .filter(|grant| {
                let path = grant.place.path();
                let anchor = pattern.anchor.as_str();
                !grant.built_in && (is_within(path, anchor) || is_within(anchor, path))
            })
            .fold(FileAccess::NONE, |access, grant| access | grant.access),
    };
    if !(reachable & refusal.rule.access).is_empty() {
        files.for_hooks.push(Lack::new(
            format!("`{pattern}` is denied where it exists now, not where it appears later"),
            "none in this version: mounts protect what exists at the start",
        ));
    }
}

/// A covered path could be got rid of by renaming the directory that holds it,
/// so every directory from the writable tree down to it is pinned.
fn pin_parents(files: &mut Files) {
    let roots: Vec<String> = files
        .trees
        .iter()
        .filter(|tree| !tree.attributes.read_only)
        .map(|tree| tree.place.path().to_owned())
        .collect();
    let roots = outermost(&roots);
    let mut pins = BTreeSet::new();
    for path in files.covers.keys() {
        let Some(root) = roots.iter().find(|root| is_within(path, root)) else {
            continue;
        };
        let mut parent = path.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            if above.len() <= root.len() {
                break;
            }
            pins.insert(above.to_owned());
            parent = above;
        }
    }
    for pin in pins {
        files.covers.entry(pin).or_insert(Cover {
            directory: true,
            ..Cover::default()
        });
    }
}

/// Beneath what is masked there is nothing to be covered, nor a place to mount on.
fn drop_unreachable(files: &mut Files) {
    let masked: Vec<String> = files
        .covers
        .iter()
        .filter(|(_, cover)| cover.masked && cover.directory)
        .map(|(path, _)| path.clone())
        .collect();
    let beneath = |path: &str| {
        masked
            .iter()
            .any(|mask| mask != path && is_within(path, mask))
    };
    files.covers.retain(|path, _| !beneath(path));
}

/// Landlock's words for a rule's.
pub(super) fn rights(access: FileAccess, kind: Kind) -> FileRights {
    let mut rights = FileRights::NONE;
    for (flag, right) in [
        (FileAccess::READ, FileRights::READ),
        (FileAccess::WRITE, FileRights::WRITE),
        (FileAccess::DELETE, FileRights::DELETE),
        (FileAccess::EXECUTE, FileRights::EXECUTE),
    ] {
        if access.contains(flag) {
            rights |= right;
        }
    }
    match kind {
        Kind::Directory => rights,
        _ => rights & FileRights::FOR_FILES,
    }
}

pub(super) fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}
