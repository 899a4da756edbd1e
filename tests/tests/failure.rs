//! A launch that fails leaves nothing behind: no process, no mount, no cgroup, no file.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nemoclaw_tests::{Bench, host, is_root, skip};

#[test]
fn nothing_is_left_by_launches_that_fail_at_any_place() {
    let _alone = host::alone();
    let bench = Bench::new();
    bench.write(&bench.work("no-loader"), "#!/usr/bin/no-such-interpreter\n");
    fs::set_permissions(bench.work("no-loader"), fs::Permissions::from_mode(0o755)).unwrap();
    // Recognised as executable by its permissions and not by the kernel.
    bench.write(
        &bench.work("no-format"),
        "\u{7f}ELF and nothing that follows",
    );
    fs::set_permissions(bench.work("no-format"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = host::Traces::now();
    let policy = bench.policy();
    let runs = [
        ("not found", bench.agent(&policy, &["no-such-program"])),
        ("not allowed", bench.agent(&policy, &["./no-format"])),
        (
            "not executable",
            bench.agent(
                &policy
                    .clone()
                    .allow("execute_code", &["${workdir}/no-format"]),
                &["./no-format"],
            ),
        ),
        (
            "interpreter",
            bench.agent(
                &policy
                    .clone()
                    .allow("execute_code", &["${workdir}/no-loader"]),
                &["./no-loader"],
            ),
        ),
        (
            "no landlock",
            bench.probing(&policy, &["pid"]).without("landlock"),
        ),
        (
            "no seccomp",
            bench.probing(&policy, &["pid"]).without("seccomp"),
        ),
        (
            "no namespaces",
            bench.probing(&policy, &["pid"]).without("namespaces"),
        ),
        (
            "hooks",
            bench.probing(&policy.clone().enforce("bpf_hooks", "required"), &["pid"]),
        ),
    ];
    for (what, agent) in runs {
        let run = agent.run();
        assert!((125..=127).contains(&run.code()), "{what}\n{run}");
        assert!(!run.error.is_empty(), "{what}: a failure says why");
        assert!(!run.error.contains("panicked"), "{what}\n{run}");
        before.assert_unchanged();
    }
    assert_eq!(fs::read_dir(bench.work("")).unwrap().count(), 2);
}

#[test]
fn a_step_that_fails_in_the_kernel_is_named_and_leaves_nothing() {
    let _alone = host::alone();
    let bench = Bench::new();
    bench.write(
        &bench.work("no-format"),
        "\u{7f}ELF and nothing that follows",
    );
    fs::set_permissions(bench.work("no-format"), fs::Permissions::from_mode(0o755)).unwrap();
    let policy = bench
        .policy()
        .allow("execute_code", &["${workdir}/no-format"]);
    let before = host::Traces::now();
    let run = bench.agent(&policy, &["./no-format"]).run();
    assert_eq!(run.code(), 126, "{run}");
    assert!(
        run.error.contains("step ") && run.error.contains(" of "),
        "{run}"
    );
    before.assert_unchanged();
    let entry = &bench.entries_of("launch")[1];
    assert!(
        entry["reason"].as_str().unwrap().contains("step "),
        "{entry}"
    );
}

#[test]
fn a_run_that_succeeds_leaves_nothing_either() {
    let _alone = host::alone();
    let bench = Bench::new();
    let before = host::Traces::now();
    let run = bench.probe(
        &bench.policy(),
        &[
            "daemon:/tmp/daemon",
            "child-heartbeat:/tmp/child",
            "create:file",
        ],
    );
    run.allowed("create:file");
    before.assert_unchanged();
    let names: Vec<_> = fs::read_dir(bench.work(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    // No ghost files: what was mounted or covered is not seen in the workspace.
    assert_eq!(names, ["file"]);
}

#[test]
fn denied_names_that_do_not_exist_leave_no_ghost_files() {
    let _alone = host::alone();
    let bench = Bench::new();
    let policy = bench
        .policy()
        .deny("read_files", &["${workdir}/.env", "${workdir}/secrets/*"])
        .deny("write_files", &["${workdir}/.git/hooks"]);
    let run = bench.probe(&policy, &["list:."]);
    assert_eq!(run.allowed("list:."), serde_json::json!([]));
    assert_eq!(fs::read_dir(bench.work("")).unwrap().count(), 0);
}

#[test]
fn a_supervisor_killed_while_it_launches_leaves_no_process() {
    let _alone = host::alone();
    let bench = Bench::new();
    let before = host::Traces::now();
    for delay in [0, 2, 4, 6, 8, 10, 15, 20, 30, 50] {
        let live = bench.probing(&bench.policy(), &["heartbeat:beat"]).start();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        live.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = live.finish();
    }
    // The last one sweeps what the killed ones could not remove.
    let run = bench.probe(&bench.policy(), &["pid"]);
    run.allowed("pid");
    before.assert_unchanged();
}

#[test]
fn what_is_planned_is_what_runs() {
    let _alone = host::alone();
    let bench = Bench::new();
    let file = bench.root().join("policy.yaml");
    bench.write(&file, &bench.policy().to_string());
    let saved = bench.root().join("saved.json");
    let (file, saved) = (file.to_str().unwrap(), saved.to_str().unwrap());
    let planned = bench
        .supervisor(&["plan", "--policy", file, "--format", "json", "--", "true"])
        .run();
    assert_eq!(planned.code(), 0, "{planned}");
    let run = bench
        .supervisor(&["run", "--policy", file, "--save-plan", saved, "--", "true"])
        .run();
    assert_eq!(run.code(), 0, "{run}");
    let planned: serde_json::Value = serde_json::from_str(&planned.output).unwrap();
    let ran: serde_json::Value = serde_json::from_str(&fs::read_to_string(saved).unwrap()).unwrap();
    assert_eq!(
        without_the_runs_own(&planned["agent"]),
        without_the_runs_own(&ran)
    );
}

/// A plan without what each run has for itself: its user ids, made from a process id, and its cgroup's name.
fn without_the_runs_own(plan: &serde_json::Value) -> serde_json::Value {
    let mut plan = plan.clone();
    if !plan["cgroup"].is_null() {
        plan["cgroup"]["name"] = "run".into();
    }
    if is_root() {
        plan["identity"]["outside_uid"] = 0.into();
        plan["identity"]["outside_gid"] = 0.into();
        for step in plan["steps"].as_array_mut().into_iter().flatten() {
            if let Some(map) = step.get_mut("idmap_namespace") {
                map["agent_uid"] = 0.into();
                map["agent_gid"] = 0.into();
            }
        }
    }
    plan
}

#[test]
fn planning_changes_nothing() {
    let _alone = host::alone();
    let bench = Bench::new();
    let before = host::Traces::now();
    let file = bench.root().join("policy.yaml");
    bench.write(&file, &bench.policy().to_string());
    let run = bench
        .supervisor(&[
            "plan",
            "--policy",
            file.to_str().unwrap(),
            "--",
            "touch",
            "made",
        ])
        .run();
    assert_eq!(run.code(), 0, "{run}");
    assert!(run.output.contains("touch"), "{run}");
    assert!(!bench.work("made").exists());
    assert!(!bench.root().join("audit").exists(), "no log was opened");
    before.assert_unchanged();
}

#[test]
fn a_cgroup_tree_that_cannot_be_written_is_told() {
    let _alone = host::alone();
    if !is_root() {
        skip("root", "only root can cover the cgroup trees");
        return;
    }
    let bench = Bench::new();
    let cover = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";
    let through = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        cover,
        "sh",
    ];
    let policy = bench
        .policy()
        .enforce("cgroups", "required")
        .section("resources: {pids: 50, memory: 64MiB}");
    let run = bench
        .probing(&policy, &["create:ran"])
        .through(&through)
        .run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("cgroup"), "{run}");
    assert!(!bench.work("ran").exists());
    let policy = policy.enforce("cgroups", "best_effort");
    let run = bench
        .probing(&policy, &["create:ran"])
        .through(&through)
        .run();
    assert_eq!(run.code(), 0, "{run}");
    assert!(run.error.contains("cgroups"), "{run}");
}
