//! cgroup v2: one tree, controllers handed down level by level (`admin-guide/cgroup-v2.rst`).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::{fs, iter};

use super::device::Device;
use super::{
    Applied, Cgroup, CgroupError, CgroupPlan, Directory, Layout, Limit, Missing, Place, Setting,
    Usage, Wanted, apply, make, number, write,
};

/// The controller that holds a limit.
pub(super) fn controller(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory | Limit::Swap => "memory",
        Limit::Cpu => "cpu",
        Limit::Pids => "pids",
        Limit::Io => "io",
        Limit::Group => "",
    }
}

/// The plan as settings of v2 files.
pub(super) fn settings(plan: &CgroupPlan, device: Option<&Result<Device, String>>) -> Wanted {
    let mut settings = Vec::new();
    let mut missing = Vec::new();
    let mut set = |limit, file, value: String| {
        settings.push(Setting {
            limit,
            controller: controller(limit),
            file,
            value,
            partly: None,
        });
    };
    if let Some(bytes) = plan.memory_max {
        set(Limit::Memory, "memory.max", bytes.to_string());
    }
    if let Some(bytes) = plan.swap_max {
        set(Limit::Swap, "memory.swap.max", bytes.to_string());
    }
    if let Some(cpu) = plan.cpu_max {
        set(
            Limit::Cpu,
            "cpu.max",
            format!("{} {}", cpu.quota_us, cpu.period_us),
        );
    }
    if let Some(pids) = plan.pids_max {
        set(Limit::Pids, "pids.max", pids.to_string());
    }
    if let Some(io) = &plan.io_max {
        match device {
            Some(Ok(device)) => {
                let rate = |name, bytes: Option<u64>| bytes.map(|bytes| format!("{name}={bytes}"));
                let rates: Vec<String> = [
                    rate("rbps", io.read_bps),
                    rate("wbps", io.write_bps),
                    rate("riops", io.read_iops),
                    rate("wiops", io.write_iops),
                ]
                .into_iter()
                .flatten()
                .collect();
                if !rates.is_empty() {
                    set(Limit::Io, "io.max", format!("{device} {}", rates.join(" ")));
                }
            }
            Some(Err(why)) => missing.push(Missing::no_device(why)),
            None => {}
        }
    }
    (settings, missing)
}

/// Our own move out of a cgroup that is to hand controllers down, and what it takes to go back.
#[derive(Debug)]
pub(super) struct Leaf {
    own: PathBuf,
    leaf: PathBuf,
    pid: u32,
    enabled: Vec<String>,
}

impl Leaf {
    /// Goes back once no other run needs the controllers. What fails is left to systemd or to the next sweep.
    pub(super) fn undo(self) {
        if self.own.join(super::GROUP).exists() {
            return;
        }
        for controller in &self.enabled {
            let _ = write(
                &self.own.join("cgroup.subtree_control"),
                &format!("-{controller}"),
            );
        }
        if write(&self.own.join("cgroup.procs"), &self.pid.to_string()).is_ok() {
            let _ = fs::remove_dir(&self.leaf);
        }
    }
}

/// Makes the directory in the v2 tree, if there is one, and sets what it can.
pub(super) fn create(
    name: &str,
    settings: &[Setting],
    layout: &Layout,
    cgroup: &mut Cgroup,
    applied: &mut Vec<Applied>,
    missing: &mut Vec<Missing>,
) -> Result<(), CgroupError> {
    let limits: BTreeSet<Limit> = settings.iter().map(|setting| setting.limit).collect();
    let Some(place) = layout
        .unified
        .as_ref()
        .and_then(|unified| unified.place.as_ref())
    else {
        missing.extend(limits.into_iter().map(|limit| layout.no_place(limit)));
        return Ok(());
    };
    let wanted: BTreeSet<&str> = settings.iter().map(|setting| setting.controller).collect();
    let (mut offered, lacking): (Vec<&str>, Vec<&str>) = wanted
        .into_iter()
        .partition(|controller| place.controllers.iter().any(|one| one == controller));
    for limit in limits
        .iter()
        .filter(|limit| lacking.contains(&controller(**limit)))
    {
        missing.push(layout.no_controller(*limit, controller(*limit), place));
    }

    let mut refused: Vec<(String, io::Error)> = Vec::new();
    match move_aside(place, layout, &offered) {
        Ok(leaf) => cgroup.leaf = leaf,
        Err(error) => refused.extend(
            offered
                .drain(..)
                .map(|one| (one.to_owned(), io::Error::from(error.kind()))),
        ),
    }
    let here = enable(&place.path, &offered);
    if let Some(leaf) = &mut cgroup.leaf {
        leaf.enabled = here.0;
    }
    refused.extend(here.1);
    let path = match make(&place.path, name, |group| drop(enable(group, &offered))) {
        Ok(path) => path,
        Err((path, error)) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CgroupError::Exists(path));
        }
        Err((path, error)) => {
            missing.extend(
                limits
                    .into_iter()
                    .filter(|limit| !lacking.contains(&controller(*limit)))
                    .map(|limit| layout.no_directory(limit, &path, &error)),
            );
            return Ok(());
        }
    };
    // Kept before anything else can fail, so that dropping the cgroup removes it.
    cgroup.directories.push(Directory {
        path: path.clone(),
        unified: true,
        controllers: offered.iter().map(|one| (*one).to_owned()).collect(),
    });
    for (name, error) in &refused {
        for limit in limits.iter().filter(|limit| controller(**limit) == name) {
            missing.push(layout.not_enabled(*limit, name, &place.path, error));
        }
    }
    let held: Vec<Setting> = settings
        .iter()
        .filter(|setting| !lacking.contains(&setting.controller))
        .filter(|setting| !refused.iter().any(|(name, _)| name == setting.controller))
        .cloned()
        .collect();
    let (set, lacks) = apply(&path, &held);
    if set.iter().any(|one| one.limit == Limit::Memory) {
        // The whole agent ends when its memory runs out, not one helper of it. Absent before Linux 4.19.
        let _ = write(&path.join("memory.oom.group"), "1");
    }
    applied.extend(set);
    missing.extend(lacks);
    Ok(())
}

/// Moves the owner into a leaf of its own where the rule against processes in inner cgroups stands in the way.
fn move_aside(place: &Place, layout: &Layout, wanted: &[&str]) -> io::Result<Option<Leaf>> {
    if !place.leaf || wanted.iter().all(|one| enabled(&place.path).contains(*one)) {
        return Ok(None);
    }
    let leaf = place.path.join(layout.owner.leaf());
    match fs::create_dir(&leaf) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let pid = layout.owner.pid;
    if let Err(error) = write(&leaf.join("cgroup.procs"), &pid.to_string()) {
        let _ = fs::remove_dir(&leaf);
        return Err(error);
    }
    Ok(Some(Leaf {
        own: place.path.clone(),
        leaf,
        pid,
        enabled: Vec::new(),
    }))
}

/// The controllers that a cgroup hands to its children.
pub(super) fn enabled(directory: &Path) -> BTreeSet<String> {
    words(&directory.join("cgroup.subtree_control"))
}

/// The words of a control file; none when it cannot be read.
pub(super) fn words(path: &Path) -> BTreeSet<String> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Hands controllers to the children, one write for each because the kernel refuses a line as a whole.
/// Returns those that were newly enabled, and those refused.
fn enable(directory: &Path, wanted: &[&str]) -> (Vec<String>, Vec<(String, io::Error)>) {
    let before = enabled(directory);
    let mut fresh = Vec::new();
    let mut refused = Vec::new();
    for controller in wanted.iter().filter(|one| !before.contains(**one)) {
        match write(
            &directory.join("cgroup.subtree_control"),
            &format!("+{controller}"),
        ) {
            Ok(()) => fresh.push((*controller).to_owned()),
            Err(error) => refused.extend(iter::once(((*controller).to_owned(), error))),
        }
    }
    (fresh, refused)
}

/// What the v2 directory tells.
pub(super) fn usage(directory: &Path) -> Usage {
    Usage {
        memory_peak: number(&directory.join("memory.peak"), ""),
        oom_kills: number(&directory.join("memory.events"), "oom_kill"),
        pids_max_hits: number(&directory.join("pids.events"), "max"),
        cpu_usec: number(&directory.join("cpu.stat"), "usage_usec"),
    }
}

#[cfg(test)]
#[path = "v2_tests.rs"]
mod tests;
