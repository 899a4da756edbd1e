//! Cgroups on the kernel that runs the tests: as root they are really made, filled, filled beyond the limit and
//! removed. Elsewhere each test says why it is skipped; `NEMOCLAW_REQUIRE=cgroup` turns a skip into a failure.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops where it fails"
)]

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nemoclaw_sandbox::cgroup::{
    Cgroup, CgroupError, CgroupPlan, CpuMax, IoMax, Layout, Limit, sweep,
};

static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// The layout; or, when one of `limits` cannot be had here, `None` with the reason printed and counted.
fn layout(name: &str, limits: &[Limit]) -> Option<Layout> {
    let layout = Layout::detect(Path::new("/proc"));
    let Some(lack) = limits.iter().find_map(|limit| layout.lack(*limit)) else {
        return Some(layout);
    };
    skip(name, &lack.why);
    None
}

fn skip(name: &str, reason: &str) {
    let required = std::env::var("NEMOCLAW_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|one| one == "cgroup"),
        "{name} is required and was skipped: {reason}"
    );
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Not by `println!`, which the harness keeps to itself when a test passes.
    let _ = writeln!(
        io::stderr(),
        "SKIP {name}: {reason} (skip {count} of this file)"
    );
}

fn plan(name: &str) -> CgroupPlan {
    CgroupPlan {
        name: format!("test-{name}"),
        required: true,
        ..CgroupPlan::default()
    }
}

/// A shell that waits for a line before it does `work`, so that it can be put into the cgroup first.
fn shell(work: &str) -> Child {
    Command::new("/bin/sh")
        .args(["-c", &format!("read go; {work}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn go(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    panic!("a child outlived the time limit");
}

fn paths(cgroup: &Cgroup) -> Vec<PathBuf> {
    cgroup.paths().map(Path::to_path_buf).collect()
}

#[test]
fn limits_are_set_and_read_back_and_nothing_is_left() {
    let name = "limits_are_set_and_read_back_and_nothing_is_left";
    let Some(layout) = layout(name, &[Limit::Memory, Limit::Swap, Limit::Cpu, Limit::Pids]) else {
        return;
    };
    let wanted = CgroupPlan {
        memory_max: Some(64 << 20),
        swap_max: Some(0),
        cpu_max: Some(CpuMax {
            quota_us: 50_000,
            period_us: 100_000,
        }),
        pids_max: Some(7),
        ..plan("limits")
    };
    let (cgroup, applied, missing) = Cgroup::create(&wanted, &layout).unwrap();
    assert_eq!(missing, []);
    for (limit, values) in [
        (Limit::Memory, vec!["67108864"]),
        // v1 counts memory and swap together.
        (Limit::Swap, vec!["0", "67108864"]),
        (Limit::Cpu, vec!["50000 100000", "50000"]),
        (Limit::Pids, vec!["7"]),
    ] {
        let held: Vec<&str> = applied
            .iter()
            .filter(|one| one.limit == limit)
            .map(|one| one.value.as_str())
            .collect();
        assert!(
            held.iter().any(|value| values.contains(value)),
            "{limit}: {held:?}"
        );
    }
    for one in &applied {
        assert_eq!(fs::read_to_string(&one.by).unwrap().trim(), one.value);
    }
    let made = paths(&cgroup);
    assert!(!made.is_empty());
    cgroup.remove().unwrap();
    for path in made {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

#[test]
fn an_io_limit_names_the_disk_or_is_missing_with_a_reason() {
    let name = "an_io_limit_names_the_disk_or_is_missing_with_a_reason";
    let Some(layout) = layout(name, &[Limit::Io]) else {
        return;
    };
    let io = |directory: &str| CgroupPlan {
        io_max: Some(IoMax {
            read_bps: Some(1 << 20),
            write_bps: Some(2 << 20),
            read_iops: None,
            write_iops: Some(100),
            directory: PathBuf::from(directory),
        }),
        ..plan("io")
    };
    let (cgroup, applied, missing) = Cgroup::create(&io("/proc"), &layout).unwrap();
    assert_eq!((applied.len(), missing.len()), (0, 1));
    assert!(
        missing[0].why.contains("lies on proc"),
        "{}",
        missing[0].why
    );
    cgroup.remove().unwrap();
    let (cgroup, applied, missing) =
        Cgroup::create(&io(env!("CARGO_MANIFEST_DIR")), &layout).unwrap();
    if missing.is_empty() {
        let text: String = applied
            .iter()
            .map(|one| one.value.as_str())
            .collect::<Vec<_>>()
            .join(" ");
        assert!(
            text.contains("1048576") && text.contains("2097152") && text.contains("100"),
            "{text}"
        );
    } else {
        // A file system without a disk of its own.
        assert!(
            missing
                .iter()
                .all(|one| one.limit == Limit::Io && !one.remedy.is_empty()),
            "{missing:?}"
        );
    }
    cgroup.remove().unwrap();
}

#[test]
fn an_attached_child_and_its_children_are_counted_and_killed() {
    let name = "an_attached_child_and_its_children_are_counted_and_killed";
    let Some(layout) = layout(name, &[Limit::Pids]) else {
        return;
    };
    let (cgroup, _, _) = Cgroup::create(
        &CgroupPlan {
            pids_max: Some(32),
            ..plan("killed")
        },
        &layout,
    )
    .unwrap();
    // One child in a session of its own, as a daemon would be.
    let mut child = shell("setsid sleep 60 & sleep 60 & wait");
    cgroup.attach(child.id()).unwrap();
    go(&mut child);
    let deadline = Instant::now() + Duration::from_secs(5);
    while cgroup.processes().unwrap().len() < 3 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let inside = cgroup.processes().unwrap();
    assert_eq!(inside.len(), 3, "{inside:?}");
    assert!(inside.contains(&child.id()));
    cgroup.kill().unwrap();
    assert_eq!(wait(&mut child).signal(), Some(9));
    assert!(cgroup.processes().unwrap().is_empty());
    assert!(matches!(
        Cgroup::create(&plan("killed"), &layout),
        Err(CgroupError::Exists(_))
    ));
    cgroup.remove().unwrap();
}

#[test]
fn a_memory_hog_is_killed_at_the_limit_and_the_kill_is_counted() {
    let name = "a_memory_hog_is_killed_at_the_limit_and_the_kill_is_counted";
    let Some(layout) = layout(name, &[Limit::Memory, Limit::Swap]) else {
        return;
    };
    let wanted = CgroupPlan {
        memory_max: Some(16 << 20),
        swap_max: Some(0),
        ..plan("hog")
    };
    let (cgroup, _, missing) = Cgroup::create(&wanted, &layout).unwrap();
    assert_eq!(missing, []);
    // `tail` keeps its last line, and the input has one line of 256 MB.
    let mut child = shell("head -c 256000000 /dev/zero | exec tail -n 1 > /dev/null; exit $?");
    cgroup.attach(child.id()).unwrap();
    go(&mut child);
    let status = wait(&mut child);
    assert!(!status.success(), "256 MB went into 16 MiB: {status}");
    let usage = cgroup.usage();
    assert!(usage.oom_kills.unwrap() >= 1, "{usage:?}");
    assert!(
        usage.memory_peak.is_none_or(|peak| peak <= 16 << 20),
        "{usage:?}"
    );
    cgroup.remove().unwrap();
}

#[test]
fn forks_beyond_the_limit_fail_and_are_counted() {
    let name = "forks_beyond_the_limit_fail_and_are_counted";
    let Some(layout) = layout(name, &[Limit::Pids]) else {
        return;
    };
    let (cgroup, _, missing) = Cgroup::create(
        &CgroupPlan {
            pids_max: Some(5),
            ..plan("forks")
        },
        &layout,
    )
    .unwrap();
    assert_eq!(missing, []);
    let mut child = shell("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 60 & done; wait");
    cgroup.attach(child.id()).unwrap();
    go(&mut child);
    // The shell gives up at the first fork that fails.
    let status = wait(&mut child);
    assert!(!status.success(), "{status}");
    let usage = cgroup.usage();
    assert!(usage.pids_max_hits.unwrap() >= 1, "{usage:?}");
    assert!(cgroup.processes().unwrap().len() <= 5);
    cgroup.remove().unwrap();
}

#[test]
fn dropping_on_an_error_path_kills_and_removes() {
    let name = "dropping_on_an_error_path_kills_and_removes";
    let Some(layout) = layout(name, &[Limit::Group]) else {
        return;
    };
    let mut child = shell("sleep 60");
    let made = {
        let (cgroup, _, _) = Cgroup::create(&plan("dropped"), &layout).unwrap();
        cgroup.attach(child.id()).unwrap();
        go(&mut child);
        paths(&cgroup)
    };
    assert_eq!(wait(&mut child).signal(), Some(9));
    assert!(
        !made.is_empty() && made.iter().all(|path| !path.exists()),
        "{made:?}"
    );
}

#[test]
fn what_a_dead_supervisor_left_is_swept_and_what_lives_stays() {
    let name = "what_a_dead_supervisor_left_is_swept_and_what_lives_stays";
    let Some(layout) = layout(name, &[Limit::Group]) else {
        return;
    };
    let mut dead = layout.clone();
    // No process has started at tick 0 of a running system.
    dead.owner.start = 0;
    let (stale, _, _) = Cgroup::create(&plan("stale"), &dead).unwrap();
    let (living, _, _) = Cgroup::create(&plan("living"), &layout).unwrap();
    let (left, kept) = (paths(&stale), paths(&living));
    let mut child = shell("sleep 60");
    stale.attach(child.id()).unwrap();
    go(&mut child);
    std::mem::forget(stale);
    let mut removed = sweep(&layout, Path::new("/proc"));
    removed.retain(|path| left.contains(path));
    assert_eq!(removed.len(), left.len());
    assert!(left.iter().all(|path| !path.exists()));
    assert!(kept.iter().all(|path| path.exists()));
    assert_eq!(wait(&mut child).signal(), Some(9));
    living.remove().unwrap();
}

/// Where a single v1 tree is all there is to find and stop the processes by.
#[test]
fn a_group_that_keeps_forking_is_ended_without_the_v2_tree() {
    let name = "a_group_that_keeps_forking_is_ended_without_the_v2_tree";
    for controller in ["freezer", "pids", "memory"] {
        let mut alone = Layout::detect(Path::new("/proc"));
        alone.unified = None;
        alone
            .legacy
            .retain(|tree| tree.has(controller) && tree.refusal.is_none());
        if alone.legacy.is_empty() {
            skip(name, &format!("no writable v1 tree with `{controller}`"));
            continue;
        }
        let wanted = CgroupPlan {
            pids_max: Some(64),
            memory_max: Some(256 << 20),
            ..plan(&format!("forking-{controller}"))
        };
        let (cgroup, _, _) = Cgroup::create(&wanted, &alone).unwrap();
        assert_eq!(cgroup.paths().count(), 1, "{controller}");
        // Three lines of processes that each start the next; bounded in number should the killing fail.
        let mut child = shell(
            "f() { i=$1; while [ $i -lt 2000 ]; do i=$((i+1)); sh -c : & wait $!; done; }; f 0 & f 0 & f 0 & wait",
        );
        cgroup.attach(child.id()).unwrap();
        go(&mut child);
        std::thread::sleep(Duration::from_millis(50));
        cgroup.kill().unwrap();
        assert_eq!(wait(&mut child).signal(), Some(9), "{controller}");
        assert!(cgroup.processes().unwrap().is_empty(), "{controller}");
        cgroup.remove().unwrap();
    }
}
