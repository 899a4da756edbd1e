use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::{CpuMax, IoMax, Kind, Owner, Unified};
use super::*;

#[test]
fn a_plan_becomes_the_files_of_v2() {
    let plan = CgroupPlan {
        name: "a".to_owned(),
        memory_max: Some(1 << 30),
        swap_max: Some(0),
        cpu_max: Some(CpuMax {
            quota_us: 200_000,
            period_us: 100_000,
        }),
        pids_max: Some(512),
        io_max: Some(IoMax {
            read_bps: Some(1),
            write_bps: None,
            read_iops: None,
            write_iops: Some(4),
            directory: "/work".into(),
        }),
        required: true,
    };
    let (settings, missing) = settings(&plan, Some(&Err("no disk".to_owned())));
    let lines: Vec<String> = settings
        .iter()
        .map(|one| format!("{} = {}", one.file, one.value))
        .collect();
    assert_eq!(
        lines,
        [
            "memory.max = 1073741824",
            "memory.swap.max = 0",
            "cpu.max = 200000 100000",
            "pids.max = 512",
        ]
    );
    assert_eq!(missing.len(), 1);
    assert_eq!(
        (missing[0].limit, missing[0].why.as_str()),
        (Limit::Io, "no disk")
    );
}

/// A cgroup in the real v2 tree with one process of its own, ended and removed at the end.
struct Scope {
    path: PathBuf,
    child: Child,
    above: PathBuf,
    enabled: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

/// One scope at a time: each switches the controller on in the cgroup above and off again.
static ALONE: Mutex<()> = Mutex::new(());

impl Scope {
    /// `None`, with the reason printed, where the tree has no controller to hand on.
    fn new(name: &str) -> Option<(Self, &'static str)> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let layout = Layout::detect(Path::new("/proc"));
        let place = layout.unified.and_then(|unified| unified.place);
        let found = place.and_then(|place| {
            let one = ["pids", "hugetlb"]
                .into_iter()
                .find(|one| place.controllers.iter().any(|other| other == one))?;
            Some((place, one))
        });
        let Some((place, controller)) = found.filter(|(place, _)| !place.leaf) else {
            let required = std::env::var("NEMOCLAW_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|one| one == "cgroup-v2"),
                "{name} is required"
            );
            // Not by `println!`, which the harness keeps to itself when a test passes.
            let _ = io::Write::write_all(
                &mut io::stderr(),
                format!("SKIP {name}: no v2 tree with a controller to hand on\n").as_bytes(),
            );
            return None;
        };
        let (enabled, refused) = enable(&place.path, &[controller]);
        assert!(refused.is_empty(), "{refused:?}");
        let path = place
            .path
            .join(format!("nemoclaw-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let scope = Self {
            path,
            child,
            above: place.path,
            enabled,
            _alone: alone,
        };
        write(
            &scope.path.join("cgroup.procs"),
            &scope.child.id().to_string(),
        )
        .unwrap();
        Some((scope, controller))
    }

    fn layout(&self, controller: &str) -> Layout {
        let place = Place {
            path: self.path.clone(),
            controllers: vec![controller.to_owned()],
            withheld: Vec::new(),
            leaf: true,
        };
        Layout {
            kind: Kind::V2,
            unified: Some(Unified {
                mount: self.path.clone(),
                own: self.path.clone(),
                place: Some(place),
                refusals: Vec::new(),
            }),
            legacy: Vec::new(),
            owner: Owner {
                pid: self.child.id(),
                start: 1,
                pid_namespace: 1,
            },
            root: true,
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        super::super::kill::remove(&self.path).unwrap();
        for controller in &self.enabled {
            // Another program may have come to use it meanwhile.
            let _ = write(
                &self.above.join("cgroup.subtree_control"),
                &format!("-{controller}"),
            );
        }
    }
}

#[test]
fn the_owner_moves_into_a_leaf_so_that_controllers_can_be_handed_on_and_goes_back() {
    let Some((scope, controller)) = Scope::new("leaf") else {
        return;
    };
    let layout = scope.layout(controller);
    // The rule that makes the move needed.
    let (_, refused) = enable(&scope.path, &[controller]);
    assert_eq!(refused[0].1.raw_os_error(), Some(libc::EBUSY));

    let setting = match controller {
        "pids" => ("pids.max", "7"),
        _ => ("hugetlb.2MB.max", "0"),
    };
    let setting = Setting {
        limit: Limit::Pids,
        controller,
        file: setting.0,
        value: setting.1.to_owned(),
        partly: None,
    };
    // The limit is filed under pids, so its controller must be looked up under that name: `hugetlb` has no limit of ours.
    let place = layout.unified.as_ref().unwrap().place.as_ref().unwrap();
    let mut leaf = move_aside(place, &layout, &[controller]).unwrap().unwrap();
    assert_eq!(
        fs::read_to_string(scope.path.join("cgroup.procs")).unwrap(),
        ""
    );
    let (fresh, refused) = enable(&scope.path, &[controller]);
    assert!(refused.is_empty(), "{refused:?}");
    leaf.enabled = fresh;
    let path = make(&scope.path, "run", |group| {
        drop(enable(group, &[controller]))
    })
    .unwrap();
    let (applied, missing) = apply(&path, &[setting]);
    assert_eq!((applied.len(), missing.len()), (1, 0), "{missing:?}");
    // While another run is there, the owner stays aside.
    fs::remove_dir(&path).unwrap();
    fs::remove_dir(scope.path.join(super::super::GROUP)).unwrap();
    leaf.undo();
    let back = fs::read_to_string(scope.path.join("cgroup.procs")).unwrap();
    assert_eq!(back.trim(), scope.child.id().to_string());
    assert!(enabled(&scope.path).is_empty());
    assert_eq!(
        fs::read_dir(&scope.path)
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .count(),
        0
    );
}

#[test]
fn a_v2_place_without_the_controllers_still_gives_the_grip_and_tells_what_lacks() {
    let Some((scope, controller)) = Scope::new("grip") else {
        return;
    };
    let layout = scope.layout(controller);
    let plan = CgroupPlan {
        name: "grip".to_owned(),
        memory_max: Some(1 << 20),
        ..CgroupPlan::default()
    };
    let (cgroup, applied, missing) = Cgroup::create(&plan, &layout).unwrap();
    assert!(applied.is_empty());
    assert_eq!(missing.len(), 1);
    assert!(
        missing[0].why.contains("`memory` is not offered"),
        "{}",
        missing[0].why
    );
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    cgroup.attach(child.id()).unwrap();
    assert_eq!(cgroup.processes().unwrap(), [child.id()]);
    assert!(cgroup.usage().cpu_usec.is_some());
    cgroup.remove().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(!scope.path.join(super::super::GROUP).exists());
}
