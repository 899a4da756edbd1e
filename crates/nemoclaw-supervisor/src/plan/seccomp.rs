//! The agent's system-call filter (seccomp(2)).

use nemoclaw_policy::{Enforcement, Mechanism};
use nemoclaw_sandbox::seccomp::{Filter, Profile, RefusalAction};

use super::PlanError;
use super::report::{Extent, Lack, Report};
use crate::facts::HostFacts;

/// The filter, and whether reported calls wait undisturbed by signals.
pub(super) fn seccomp(
    enforcement: &Enforcement,
    facts: &HostFacts,
    report: &mut Report,
) -> Result<Option<(Filter, bool)>, PlanError> {
    let remedy = "use Linux 5.0 or newer built with CONFIG_SECCOMP_FILTER; inside a container, \
                  allow the seccomp call";
    if !facts.seccomp.filter {
        let lack = Lack::new("this kernel does not take system-call filters", remedy);
        report.add(
            enforcement,
            Mechanism::Seccomp,
            "none",
            vec![lack],
            Extent::Not,
        )?;
        return Ok(None);
    }
    let action = if facts.seccomp.notify {
        RefusalAction::Notify
    } else {
        RefusalAction::Errno
    };
    let architecture = facts.architecture.ok_or(PlanError::Architecture)?;
    let filter = Profile::parse(Profile::AGENT)?.compile(architecture, action)?;
    let lacks = match action {
        RefusalAction::Notify => Vec::new(),
        RefusalAction::Errno => vec![Lack::new("refused calls are not reported", remedy)],
    };
    let extent = if lacks.is_empty() {
        Extent::Fully
    } else {
        Extent::Partly
    };
    let detail = format!(
        "profile `{}`: {} calls allowed, {} by argument, the rest refused{}",
        filter.profile,
        filter.counts.allowed,
        filter.counts.conditional,
        if lacks.is_empty() {
            " and recorded"
        } else {
            ""
        },
    );
    report.add(enforcement, Mechanism::Seccomp, detail, lacks, extent)?;
    Ok(Some((filter, facts.seccomp.wait_killable)))
}
