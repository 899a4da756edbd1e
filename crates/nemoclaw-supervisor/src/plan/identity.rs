//! Who the agent is, inside and outside.

use nemoclaw_policy::Mechanism;
use nemoclaw_sandbox::plan::Identity;

use super::report::{Extent, Report};
use super::trees::{self, Files};
use super::{PlanError, Request, steps};
use crate::places::is_within;

/// Seen inside when root starts the agent, whose own id must not be 0.
const INSIDE_WHEN_ROOT: u32 = 1000;
/// Host ids behind agents that root starts: this and the supervisor's process id,
/// so that no two agents share one and none is a person's. Above what
/// distributions and containers hand out, below 2^31 (systemd, UIDS-GIDS.md).
pub(super) const FIRST_AGENT_ID: u32 = 1_900_000_000;

/// Who the agent is outside, and whether mounts translate.
pub(super) fn identity(
    request: &Request<'_>,
    files: &Files,
    report: &mut Report,
) -> Result<(Identity, Option<steps::Idmap>), PlanError> {
    let facts = request.facts;
    let enforcement = &request.policy.policy().enforcement;
    let person = &facts.person;
    let (uid, gid) = (person.uid, person.gid);
    let inside = |id: u32| if id == 0 { INSIDE_WHEN_ROOT } else { id };
    if !facts.privileged {
        report.add(
            enforcement,
            Mechanism::Identity,
            format!("the agent is user {uid} with no capability; its files are that user's"),
            Vec::new(),
            Extent::Fully,
        )?;
        if facts.supplementary_groups {
            report.note(
                "supplementary groups stay with the agent: without privilege they cannot be dropped",
            );
        }
        let identity = Identity {
            inside_uid: inside(uid),
            inside_gid: inside(gid),
            outside_uid: uid,
            outside_gid: gid,
            drop_groups: false,
        };
        return Ok((identity, None));
    }
    let unmappable = files
        .trees
        .iter()
        .filter(|tree| maps_ids(request, tree))
        .find(|tree| !facts.can_map_ids(tree.place.path()));
    if let Some(tree) = unmappable {
        if uid == 0 && !facts.initial_user_namespace {
            return Err(PlanError::RootOfNamespace);
        }
        if uid == 0 {
            return Err(PlanError::NoIdmap {
                path: tree.place.path().to_owned(),
            });
        }
        report.add(
            enforcement,
            Mechanism::Identity,
            format!(
                "the agent is user {uid} itself: `{}` cannot map ids",
                tree.place.path()
            ),
            Vec::new(),
            Extent::Fully,
        )?;
        let identity = Identity {
            inside_uid: inside(uid),
            inside_gid: inside(gid),
            outside_uid: uid,
            outside_gid: gid,
            drop_groups: true,
        };
        return Ok((identity, None));
    }
    let agent = FIRST_AGENT_ID.saturating_add(request.supervisor);
    report.add(
        enforcement,
        Mechanism::Identity,
        format!("the agent is user {agent}, nobody on this host; mounts show its files as those of user {uid}"),
        Vec::new(),
        Extent::Fully,
    )?;
    if let Some(place) = &request.places.working_directory
        && let Some(owner) = facts.owner_of(place.path())
        && owner != uid
    {
        report.note(format!(
            "`{}` belongs to user {owner} and you are user {uid}: the agent may be unable to write there",
            place.path()
        ));
    }
    let identity = Identity {
        inside_uid: inside(uid),
        inside_gid: inside(gid),
        outside_uid: agent,
        outside_gid: agent,
        drop_groups: true,
    };
    let mapped = files
        .trees
        .iter()
        .filter(|tree| maps_ids(request, tree))
        .map(|tree| tree.place.path().to_owned())
        .collect();
    let idmap = steps::Idmap {
        person_uid: uid,
        person_gid: gid,
        mapped,
    };
    Ok((identity, Some(idmap)))
}

/// What is the person's: what the agent may write and what lies in the person's
/// home or working directory. The system's own files keep their owners, so that
/// its permissions go on to hold.
fn maps_ids(request: &Request<'_>, tree: &trees::Tree) -> bool {
    let path = tree.place.path();
    let home = &request.facts.person.home;
    let in_home = home != "/" && is_within(path, home);
    let working_directory = request.places.working_directory.as_ref();
    let in_workdir = working_directory.is_some_and(|place| is_within(path, place.path()));
    !tree.attributes.read_only || in_home || in_workdir
}
