//! Limits: a policy bounds what the agent uses of the machine, and says where it cannot.

use std::fs;
use std::time::Duration;

use nemoclaw_tests::{Bench, Policy, host, is_root, skip, within};

/// A policy that requires its limits, or nothing where this user cannot have any.
fn limited(bench: &Bench, resources: &str) -> Option<Policy> {
    if is_root() {
        let section = format!("resources: {resources}");
        return Some(
            bench
                .policy()
                .enforce("cgroups", "required")
                .section(&section),
        );
    }
    skip(
        "cgroups",
        "an ordinary user has cgroups only where the system delegates some",
    );
    None
}

#[test]
fn a_fork_bomb_stops_at_the_limit() {
    let bench = Bench::new();
    let Some(policy) = limited(&bench, "{pids: 32}") else {
        return;
    };
    let run = bench.probe(&policy, &["forks:200"]);
    let seen = run.allowed("forks:200");
    assert_eq!(seen["refusal"], "EAGAIN", "{seen}");
    let lived = seen["lived"].as_u64().unwrap();
    assert!((20..=32).contains(&lived), "{seen}");
}

#[test]
fn processes_are_bounded_for_an_ordinary_user_too() {
    let bench = Bench::new();
    // By RLIMIT_NPROC of the user namespace, where there is no cgroup.
    let run = bench.probe(
        &bench.policy().section("resources: {pids: 32}"),
        &["forks:200"],
    );
    let seen = run.allowed("forks:200");
    if seen["refusal"].is_null() {
        skip(
            "pids",
            "neither cgroups nor this kernel's RLIMIT_NPROC count the agent's processes alone",
        );
        return;
    }
    assert_eq!(seen["refusal"], "EAGAIN", "{seen}");
    assert!(seen["lived"].as_u64().unwrap() <= 32, "{seen}");
}

#[test]
fn memory_beyond_the_limit_ends_who_takes_it() {
    let bench = Bench::new();
    let Some(policy) = limited(&bench, "{memory: 64MiB}") else {
        return;
    };
    let run = bench
        .probing(&policy, &["memory:16", "memory:512", "print:after"])
        .run();
    run.allowed("memory:16");
    // The kernel ends one process of the group, which may be the probe itself.
    match run.code() {
        0 => assert_eq!(run.refused("memory:512"), "signal 9", "{run}"),
        code => assert_eq!(code, 137, "{run}"),
    }
}

#[test]
fn processor_time_is_bounded() {
    let bench = Bench::new();
    let Some(policy) = limited(&bench, "{cpus: 0.2, wall_time: 2s}") else {
        return;
    };
    let run = bench
        .agent(&policy, &["sh", "-c", "while :; do :; done"])
        .run();
    assert_eq!(run.code(), 143, "{run}");
    let exit = &bench.entries_of("exit")[0];
    let used = exit["details"]["usage"]["cpu_usec"].as_u64().unwrap();
    let took = exit["execution_time_ms"].as_u64().unwrap() * 1000;
    // Whatever else the machine does, it gets no more than its share.
    assert!(
        used > 0 && used * 10 < took * 3,
        "{used} of {took} microseconds"
    );
}

#[test]
fn the_size_of_temporary_files_is_bounded() {
    let bench = Bench::new();
    let policy = bench.policy().section("resources: {disk: 1MiB}");
    let run = bench
        .agent(
            &policy,
            &["sh", "-c", "head -c 4194304 /dev/zero > /tmp/big"],
        )
        .run();
    assert_ne!(run.code(), 0, "{run}");
    assert!(run.error.contains("No space left"), "{run}");
}

#[test]
fn the_group_is_there_while_the_agent_runs_and_gone_afterwards() {
    let bench = Bench::new();
    let Some(policy) = limited(&bench, "{pids: 40, memory: 128MiB}") else {
        return;
    };
    let live = bench
        .probing(&policy, &["daemon:daemon", "create:ready", "wait-for:go"])
        .start();
    assert!(within(Duration::from_secs(20), || bench
        .work("ready")
        .exists()));
    let start = format!("{}-", bench.name);
    let own = || -> Vec<_> {
        let mut groups: Vec<_> = host::cgroups().into_iter().collect();
        groups.retain(|group| {
            group
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&start))
        });
        groups
    };
    let groups = own();
    assert!(!groups.is_empty(), "no group was made");
    let count: usize = groups
        .iter()
        .filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
        .map(|text| text.lines().count())
        .sum();
    assert!(
        count >= 3,
        "the agent and its daemon are in its groups: {groups:?}"
    );
    bench.write(&bench.work("go"), "");
    assert_eq!(live.finish().code(), 0);
    assert_eq!(own(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn groups_of_a_supervisor_that_was_killed_are_swept_by_the_next() {
    let bench = Bench::new();
    let Some(policy) = limited(&bench, "{pids: 40}") else {
        return;
    };
    let live = bench.probing(&policy, &["heartbeat:beat"]).start();
    assert!(within(Duration::from_secs(20), || bench
        .work("beat")
        .exists()));
    let tree = host::descendants(live.id());
    live.signal(nix::sys::signal::Signal::SIGKILL);
    let _ = live.finish();
    host::assert_gone(&tree);
    let run = bench.probe(&policy, &["pid"]);
    run.allowed("pid");
    let start = format!("{}-", bench.name);
    let left: Vec<_> = host::cgroups()
        .into_iter()
        .filter(|group| {
            group
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&start))
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn limits_that_cannot_be_had_stop_the_launch_when_they_are_required() {
    if is_root() {
        skip("ordinary-user", "root has cgroups");
        return;
    }
    let bench = Bench::new();
    let policy = bench
        .policy()
        .enforce("cgroups", "required")
        .section("resources: {memory: 64MiB}");
    let run = bench.probing(&policy, &["pid"]).run();
    if run.code() == 0 {
        skip("no-delegation", "the system delegates cgroups to this user");
        return;
    }
    assert_eq!(run.code(), 125, "{run}");
    assert!(
        run.error.contains("`cgroups`") && run.error.contains("memory"),
        "{run}"
    );
    assert!(
        run.error.contains("best_effort"),
        "the way out is told\n{run}"
    );
    let run = bench
        .probing(&policy.enforce("cgroups", "best_effort"), &["pid"])
        .run();
    assert_eq!(run.code(), 0, "{run}");
    assert!(
        run.error.contains("cgroups"),
        "what is missing is told\n{run}"
    );
}
