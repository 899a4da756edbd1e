//! Every step of a launch may fail: which one is said, and nothing of the attempt is left.
#![expect(
    clippy::expect_used,
    reason = "helpers of a test fail as the test does, with what they expected"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nemoclaw_sandbox::cgroup::Layout;
use nemoclaw_sandbox::launch::{self, LaunchError, PinnedProgram, StandardStreams};
use nemoclaw_sandbox::plan::{LaunchPlan, Step};
use nemoclaw_tests::{Bench, host, program};

const EIO: i32 = 5;

/// What `plan` prints for a policy with a bit of everything: trees of both kinds, covers, a model, limits, a program.
fn plan(bench: &Bench) -> LaunchPlan {
    bench.write(&bench.work("secret"), "not for agents");
    bench.write(&bench.work("fixed/file"), "");
    let policy = bench
        .policy()
        .deny("read_files", &["${workdir}/secret"])
        .deny("write_files", &["${workdir}/fixed/*"])
        .section("models: {upstream: {url: \"http://127.0.0.1:9/v1\"}}")
        .section("resources: {pids: 50, memory: 256MiB}");
    let file = bench.root().join("policy.yaml");
    bench.write(&file, &policy.to_string());
    let file = file.to_str().expect("a path that is text");
    let planned = bench
        .supervisor(&["plan", "--policy", file, "--format", "json", "--", "true"])
        .run();
    assert_eq!(planned.code(), 0, "{planned}");
    let planned: serde_json::Value = serde_json::from_str(&planned.output).expect("a plan in JSON");
    serde_json::from_value(planned["agent"].clone()).expect("a launch plan")
}

fn streams() -> StandardStreams {
    let null = || -> OwnedFd {
        fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .expect("`/dev/null`")
            .into()
    };
    StandardStreams {
        input: null(),
        output: null(),
        error: null(),
    }
}

fn attempt(plan: LaunchPlan, init: &PinnedProgram) -> Result<(), LaunchError> {
    let prepared = launch::prepare(plan, &Layout::detect(Path::new("/proc")))?;
    let mut running = prepared.start(init, &streams(), &[])?.go()?;
    running.wait().expect("the ending");
    Ok(())
}

/// A namespace lives by a process in it, a mount or a descriptor; processes and mounts are looked at as such.
fn descriptors() -> BTreeSet<String> {
    fs::read_dir("/proc/self/fd")
        .expect("proc")
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        // The listing's own.
        .filter(|target| !target.ends_with("/fd"))
        .collect()
}

#[test]
fn a_failure_at_each_step_names_the_step_and_leaves_nothing_behind() {
    let _alone = host::alone();
    let bench = Bench::new();
    let plan = plan(&bench);
    let init = PinnedProgram::open(&program("nemoclaw-init")).unwrap();
    let (before, open) = (host::Traces::now(), descriptors());
    assert!(plan.steps.len() > 30, "{plan:?}");
    for index in 0..plan.steps.len() {
        let mut failing = plan.clone();
        failing.steps.insert(index, Step::Fail(EIO));
        let total = failing.steps.len();
        let error = attempt(failing, &init).expect_err("a step fails");
        let place = format!("before step {} ({})", index + 1, plan.steps[index]);
        match &error {
            LaunchError::Step {
                number,
                total: of,
                source,
                executing,
                ..
            } => {
                assert_eq!((*number, *of), (index + 1, total), "{place}");
                assert_eq!(source.raw_os_error(), Some(EIO), "{place}");
                assert!(!executing, "{place}");
            }
            other => panic!("{place}: {other:?}"),
        }
        assert_eq!(error.exit_status(), 125, "{place}");
        assert_eq!(descriptors(), open, "{place}");
        before.assert_unchanged();
    }
    // Without the failing step the plan works, so that each attempt came as far as it was to.
    attempt(plan, &init).unwrap();
    before.assert_unchanged();
    let mut names: Vec<_> = fs::read_dir(bench.work(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["fixed", "secret"], "no ghost files");
}
