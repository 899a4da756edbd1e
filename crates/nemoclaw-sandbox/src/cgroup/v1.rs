//! cgroup v1: a tree for each controller (`admin-guide/cgroup-v1/{memory,blkio-controller,pids,freezer-subsystem}.rst`).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::device::Device;
use super::{
    Applied, Cgroup, CgroupError, CgroupPlan, Directory, Layout, Limit, Missing, Setting, Usage,
    Wanted, apply, make, number,
};

/// The controller that holds a limit.
pub(super) fn controller(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory | Limit::Swap => "memory",
        Limit::Cpu => "cpu",
        Limit::Pids => "pids",
        Limit::Io => "blkio",
        Limit::Group => "freezer",
    }
}

/// The plan as settings of v1 files, in the order in which the kernel takes them.
pub(super) fn settings(plan: &CgroupPlan, device: Option<&Result<Device, String>>) -> Wanted {
    let mut settings = Vec::new();
    let mut missing = Vec::new();
    let mut set = |limit, file, value: String, partly: Option<&str>| {
        settings.push(Setting {
            limit,
            controller: controller(limit),
            file,
            value,
            partly: partly.map(str::to_owned),
        });
    };
    if let Some(bytes) = plan.memory_max {
        set(
            Limit::Memory,
            "memory.limit_in_bytes",
            bytes.to_string(),
            None,
        );
    }
    match (plan.swap_max, plan.memory_max) {
        // v1 counts memory and swap together, and refuses a sum below the memory limit: so it comes second.
        (Some(swap), Some(memory)) => {
            set(
                Limit::Swap,
                "memory.memsw.limit_in_bytes",
                memory.saturating_add(swap).to_string(),
                None,
            );
        }
        (Some(_), None) => missing.push(Missing {
            limit: Limit::Swap,
            why: "cgroup v1 counts memory and swap together, so a swap limit needs a memory limit"
                .to_owned(),
            remedy: "set a memory limit as well, or boot with the v2 layout".to_owned(),
        }),
        (None, _) => {}
    }
    if let Some(cpu) = plan.cpu_max {
        // The period first: the kernel checks the quota against it.
        set(
            Limit::Cpu,
            "cpu.cfs_period_us",
            cpu.period_us.to_string(),
            None,
        );
        set(
            Limit::Cpu,
            "cpu.cfs_quota_us",
            cpu.quota_us.to_string(),
            None,
        );
    }
    if let Some(pids) = plan.pids_max {
        set(Limit::Pids, "pids.max", pids.to_string(), None);
    }
    if let Some(io) = &plan.io_max {
        match device {
            Some(Ok(device)) => {
                let buffered = Some(
                    "cgroup v1 counts direct writes only; buffered writes reach the disk in the kernel's name",
                );
                for (file, rate, partly) in [
                    ("blkio.throttle.read_bps_device", io.read_bps, None),
                    ("blkio.throttle.write_bps_device", io.write_bps, buffered),
                    ("blkio.throttle.read_iops_device", io.read_iops, None),
                    ("blkio.throttle.write_iops_device", io.write_iops, buffered),
                ] {
                    if let Some(rate) = rate {
                        set(Limit::Io, file, format!("{device} {rate}"), partly);
                    }
                }
            }
            Some(Err(why)) => missing.push(Missing::no_device(why)),
            None => {}
        }
    }
    (settings, missing)
}

/// Makes the directories in the v1 trees that the settings need, and in `freezer` and `cpuacct` where they can be had.
pub(super) fn create(
    name: &str,
    settings: &[Setting],
    layout: &Layout,
    cgroup: &mut Cgroup,
    applied: &mut Vec<Applied>,
    missing: &mut Vec<Missing>,
) -> Result<(), CgroupError> {
    let limits: BTreeSet<Limit> = settings.iter().map(|setting| setting.limit).collect();
    for tree in &layout.legacy {
        let here: Vec<Setting> = settings
            .iter()
            .filter(|setting| tree.has(setting.controller))
            .cloned()
            .collect();
        // Without `cgroup.kill` the freezer is what makes killing sure; `cpuacct` tells the time used.
        let useful = tree.has("freezer") || (tree.has("cpuacct") && !limits.is_empty());
        if here.is_empty() && !useful {
            continue;
        }
        let here_limits = || {
            limits
                .iter()
                .copied()
                .filter(|limit| tree.has(controller(*limit)))
        };
        if let Some(refusal) = &tree.refusal {
            missing.extend(here_limits().map(|limit| layout.unavailable(limit, refusal.clone())));
            continue;
        }
        match make(&tree.own, name, |_| {}) {
            Ok(path) => {
                // Kept before anything else can fail, so that dropping the cgroup removes it.
                cgroup.directories.push(Directory {
                    path: path.clone(),
                    unified: false,
                    controllers: tree.controllers.clone(),
                });
                let (set, lacks) = apply(&path, &here);
                applied.extend(set);
                missing.extend(lacks);
            }
            Err((path, error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CgroupError::Exists(path));
            }
            Err((path, error)) => {
                missing
                    .extend(here_limits().map(|limit| layout.no_directory(limit, &path, &error)));
            }
        }
    }
    Ok(())
}

/// What one v1 directory tells; fields of other controllers are `None`.
pub(super) fn usage(directory: &Path) -> Usage {
    Usage {
        memory_peak: number(&directory.join("memory.max_usage_in_bytes"), ""),
        oom_kills: number(&directory.join("memory.oom_control"), "oom_kill"),
        pids_max_hits: number(&directory.join("pids.events"), "max"),
        cpu_usec: number(&directory.join("cpuacct.usage"), "")
            .map(|nanoseconds| nanoseconds / 1000),
    }
}
