//! Nothing outlives the agent, and the agent outlives neither its supervisor nor what serves it.

use std::path::Path;
use std::time::Duration;

use nemoclaw_tests::{Bench, Upstream, host, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);

/// Whether a heartbeat goes on.
fn beats(path: &Path) -> bool {
    let length = || std::fs::metadata(path).map_or(0, |status| status.len());
    let before = length();
    within(Duration::from_millis(500), || length() > before)
}

fn end(process: &host::Process) {
    let id = i32::try_from(process.id).unwrap_or(0);
    assert!(id > 1, "a process of the test's own");
    // It may have ended already.
    let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
}

#[test]
fn the_agent_and_all_it_started_die_with_a_supervisor_that_is_killed() {
    let bench = Bench::new();
    let live = bench
        .probing(
            &bench.policy(),
            &[
                "block-signals",
                "daemon:daemon",
                "child-heartbeat:child",
                "heartbeat:beat",
            ],
        )
        .start();
    let beating = ["daemon", "child", "beat"].map(|name| bench.work(name));
    assert!(within(SOON, || beating.iter().all(|path| path.exists())));
    let tree = host::descendants(live.id());
    // Both halves of init, the agent, its child and its daemon.
    assert!(tree.len() >= 5, "{tree:?}");
    live.signal(Signal::SIGKILL);
    host::assert_gone(&tree);
    for path in &beating {
        assert!(!beats(path), "{}", path.display());
    }
    assert_eq!(live.finish().code(), 137);
}

#[test]
fn a_daemon_dies_with_the_agent() {
    let bench = Bench::new();
    let live = bench
        .probing(&bench.policy(), &["daemon:daemon", "wait-for:go"])
        .start();
    assert!(within(SOON, || bench.work("daemon").exists()));
    assert!(
        beats(&bench.work("daemon")),
        "it lives as long as the agent"
    );
    let tree = host::descendants(live.id());
    bench.write(&bench.work("go"), "");
    let run = live.finish();
    assert_eq!(run.code(), 0, "{run}");
    host::assert_gone(&tree);
    assert!(!beats(&bench.work("daemon")));
}

#[test]
fn a_child_that_holds_the_output_does_not_hold_the_supervisor() {
    let bench = Bench::new();
    // `finish` fails where something holds the pipes open.
    let run = bench
        .probing(&bench.policy(), &["child-heartbeat:child", "exit:3"])
        .run();
    assert_eq!(run.code(), 3, "{run}");
    assert!(!beats(&bench.work("child")));
}

#[test]
fn the_agent_dies_with_either_half_of_init() {
    for half in ["outer", "inner"] {
        let bench = Bench::new();
        let live = bench
            .probing(&bench.policy(), &["daemon:daemon", "heartbeat:beat"])
            .start();
        assert!(within(SOON, || bench.work("beat").exists()
            && bench.work("daemon").exists()));
        let tree = host::descendants(live.id());
        let mut inits = tree
            .iter()
            .filter(|process| process.name().starts_with("nemoclaw-init"));
        let (outer, inner) = (inits.next().unwrap(), inits.next().unwrap());
        end(if half == "outer" { outer } else { inner });
        let run = live.finish();
        assert_ne!(run.code(), 0, "{half}\n{run}");
        host::assert_gone(&tree);
        assert!(!beats(&bench.work("beat")), "{half}");
        assert!(!bench.entries_of("exit").is_empty(), "the end is on record");
    }
}

#[test]
fn without_its_egress_worker_the_agent_ends_and_says_why() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    let policy = bench.policy().section(&format!(
        "models: {{upstream: {{url: \"{}\"}}}}",
        upstream.url()
    ));
    let live = bench.probing(&policy, &["heartbeat:beat"]).start();
    assert!(within(SOON, || bench.work("beat").exists()));
    // The worker serves when the start is on record.
    assert!(within(SOON, || {
        let log = std::fs::read_to_string(bench.log());
        log.is_ok_and(|text| text.contains("\"action\":\"start\""))
    }));
    let tree = host::descendants(live.id());
    let worker = tree
        .iter()
        .find(|process| process.name().starts_with("nemoclaw-egress"))
        .unwrap();
    end(worker);
    let run = live.finish();
    assert_ne!(run.code(), 0, "{run}");
    assert!(run.error.contains("egress"), "{run}");
    host::assert_gone(&tree);
    assert!(!beats(&bench.work("beat")));
    assert!(
        bench
            .entries()
            .iter()
            .any(|entry| entry["action"] == "egress"),
        "it is on record"
    );
}

#[test]
fn the_egress_worker_ends_with_the_agent_and_with_the_supervisor() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    let policy = bench.policy().section(&format!(
        "models: {{upstream: {{url: \"{}\"}}}}",
        upstream.url()
    ));
    let live = bench
        .probing(&policy, &["create:ready", "wait-for:go"])
        .start();
    assert!(within(SOON, || bench.work("ready").exists()));
    let tree = host::descendants(live.id());
    assert!(
        tree.iter()
            .any(|process| process.name().starts_with("nemoclaw-egress"))
    );
    bench.write(&bench.work("go"), "");
    assert_eq!(live.finish().code(), 0);
    host::assert_gone(&tree);

    let live = bench.probing(&policy, &["heartbeat:beat"]).start();
    assert!(within(SOON, || bench.work("beat").exists()));
    let tree = host::descendants(live.id());
    live.signal(Signal::SIGKILL);
    host::assert_gone(&tree);
}

#[test]
fn a_stopped_agent_dies_with_its_supervisor_too() {
    let bench = Bench::new();
    let live = bench
        .agent(
            &bench.policy(),
            &["sh", "-c", "touch ready; kill -STOP $$; sleep 30"],
        )
        .start();
    assert!(within(SOON, || bench.work("ready").exists()));
    let tree = host::descendants(live.id());
    live.signal(Signal::SIGKILL);
    host::assert_gone(&tree);
}
