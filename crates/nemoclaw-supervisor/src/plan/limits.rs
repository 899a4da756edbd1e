//! How much of the machine the agent may use: cgroups where they can be had, limits of the process beside them.

use nemoclaw_policy::{Level, Mechanism, Policy};
use nemoclaw_sandbox::cgroup::{CgroupPlan, CpuMax, IoMax, Limit};
use nemoclaw_sandbox::plan::{Resource, ResourceLimit};

use super::Request;
use super::report::{Extent, Lack, Report, RequiredError};
use crate::facts::HostFacts;

/// Microseconds of the period in which processor time is counted (cpu.max, cgroup-v2.rst).
const CPU_PERIOD: u64 = 100_000;
/// Bytes of `/tmp` where the policy is silent.
const TEMPORARY_SIZE: u64 = 1 << 30;
/// Open files of one process where the policy is silent.
const OPEN_FILES: u64 = 4096;
/// Bytes of memory that a process may keep from being swapped out, the kernel's own default.
const LOCKED_MEMORY: u64 = 8 << 20;

/// Both halves of `nemoclaw-init` count with the agent's processes.
const OWN_PROCESSES: u64 = 2;

/// The agent's cgroup: its limits, and the grip by which it is ended.
pub(super) fn cgroup(
    request: &Request<'_>,
    directory: &str,
    report: &mut Report,
) -> Result<Option<CgroupPlan>, RequiredError> {
    let Request { policy, facts, .. } = *request;
    let policy = policy.policy();
    let resources = &policy.resources;
    let wanted = [
        (Limit::Memory, resources.memory.is_some()),
        (Limit::Swap, resources.swap.is_some()),
        (Limit::Cpu, resources.cpus.is_some()),
        (Limit::Pids, resources.pids.is_some()),
        (Limit::Io, resources.io.is_some()),
    ];
    let mut held = Vec::new();
    let mut words = Vec::new();
    let mut lacks = Vec::new();
    for (limit, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
        match facts.cgroups.lack(limit) {
            None => {
                held.push(limit);
                words.push(limit.to_string());
            }
            Some(_) if limit == Limit::Pids && facts.counts_processes() => {
                words.push("pids (by RLIMIT_NPROC)".to_owned());
            }
            Some(missing) => lacks.push(Lack::new(
                format!("{limit}: {}", missing.why),
                missing.remedy,
            )),
        }
    }
    let grip = facts.cgroups.lack(Limit::Group).is_none() || !held.is_empty();
    let detail = match (words.is_empty(), grip) {
        (false, _) => format!("limits on {}", words.join(", ")),
        (true, true) => "no limit; the agent is ended as a group".to_owned(),
        (true, false) => "no limit".to_owned(),
    };
    let extent = match (lacks.is_empty(), words.is_empty()) {
        (true, _) => Extent::Fully,
        (false, false) => Extent::Partly,
        (false, true) => Extent::Not,
    };
    report.add(
        &policy.enforcement,
        Mechanism::Cgroups,
        detail,
        lacks,
        extent,
    )?;
    if !grip {
        return Ok(None);
    }
    let holds = |limit| held.contains(&limit);
    let io = resources.io.filter(|_| holds(Limit::Io));
    Ok(Some(CgroupPlan {
        name: request.run.to_owned(),
        memory_max: resources.memory.filter(|_| holds(Limit::Memory)),
        swap_max: resources.swap.filter(|_| holds(Limit::Swap)),
        cpu_max: resources
            .cpus
            .filter(|_| holds(Limit::Cpu))
            .map(|cpus| CpuMax {
                quota_us: u64::from(cpus.0) * CPU_PERIOD / 1000,
                period_us: CPU_PERIOD,
            }),
        pids_max: resources
            .pids
            .filter(|_| holds(Limit::Pids))
            .map(|pids| pids.saturating_add(OWN_PROCESSES)),
        io_max: io.map(|io| IoMax {
            read_bps: io.read_bytes_per_second,
            write_bps: io.write_bytes_per_second,
            read_iops: io.read_operations_per_second,
            write_iops: io.write_operations_per_second,
            directory: directory.into(),
        }),
        required: policy.enforcement.level(Mechanism::Cgroups) == Level::Required,
    }))
}

/// The limits that every process carries (setrlimit(2)). A hard limit of the host cannot be raised, so it bounds them.
pub(super) fn resource_limits(
    policy: &Policy,
    facts: &HostFacts,
    report: &mut Report,
) -> Vec<ResourceLimit> {
    let resources = &policy.resources;
    let open_files = resources.open_files.unwrap_or(OPEN_FILES);
    if resources.open_files.is_some() && open_files > facts.rlimits.open_files {
        report.note(format!(
            "`resources.open_files` is {open_files}, and this host allows {}",
            facts.rlimits.open_files
        ));
    }
    let mut limits = vec![
        ResourceLimit {
            resource: Resource::Core,
            value: 0,
        },
        ResourceLimit {
            resource: Resource::OpenFiles,
            value: open_files.min(facts.rlimits.open_files),
        },
        ResourceLimit {
            resource: Resource::LockedMemory,
            value: LOCKED_MEMORY.min(facts.rlimits.locked_memory),
        },
    ];
    if let Some(pids) = resources.pids.filter(|_| facts.counts_processes()) {
        limits.push(ResourceLimit {
            resource: Resource::Processes,
            value: pids
                .saturating_add(OWN_PROCESSES)
                .min(facts.rlimits.processes),
        });
    }
    limits
}

/// Bytes of `/tmp`.
pub(super) fn temporary_size(policy: &Policy) -> u64 {
    policy.resources.disk.unwrap_or(TEMPORARY_SIZE)
}
