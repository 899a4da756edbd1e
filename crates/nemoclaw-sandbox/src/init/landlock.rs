//! Applies Landlock rules (landlock(7)). Every part is a hard requirement: what
//! the kernel cannot do was left out of the plan, with a word to the person.

use std::io;

use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::plan::{FileRights, LandlockRules};

pub(super) fn restrict(rules: &LandlockRules) -> io::Result<()> {
    apply(rules).map_err(|error| match error {
        Failure::Landlock => {
            // The crate's errors nest; the call that failed last left its errno.
            let last = io::Error::last_os_error();
            match last.raw_os_error() {
                Some(0) | None => io::Error::from_raw_os_error(libc::ENOTSUP),
                Some(_) => last,
            }
        }
        Failure::Io(error) => error,
    })
}

enum Failure {
    Landlock,
    Io(io::Error),
}

impl From<RulesetError> for Failure {
    fn from(_: RulesetError) -> Self {
        Self::Landlock
    }
}

fn apply(rules: &LandlockRules) -> Result<(), Failure> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(flags(rules.handled))?;
    if rules.handle_tcp {
        ruleset = ruleset.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?;
    }
    if rules.scoped {
        ruleset = ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    }
    let mut created = ruleset.create()?;
    if rules.log_denials {
        created = created.log_new_exec(true)?;
    }
    for rule in &rules.rules {
        // The private root is ours, but trees mounted in it are not: a link that
        // somebody put there in the meantime must not move a right elsewhere.
        let path = super::mounts::open_inside(&rule.path).map_err(Failure::Io)?;
        created = created.add_rule(PathBeneath::new(path, flags(rule.rights)))?;
    }
    for port in &rules.connect_ports {
        created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    created.restrict_self()?;
    Ok(())
}

fn flags(rights: FileRights) -> BitFlags<AccessFs> {
    BitFlags::from_bits_truncate(rights.0)
}
