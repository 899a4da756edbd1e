//! Signals to the supervisor reach the agent, and who asks twice is heard.

use std::time::{Duration, Instant};

use nemoclaw_tests::{Bench, host, within};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn interrupt_terminate_and_hang_up_are_passed_on() {
    let bench = Bench::new();
    for (name, signal) in [
        ("INT", Signal::SIGINT),
        ("TERM", Signal::SIGTERM),
        ("HUP", Signal::SIGHUP),
        ("USR1", Signal::SIGUSR1),
    ] {
        let word = format!("await-signal:{name}:ready-{name}");
        let live = bench.probing(&bench.policy(), &[&word, "exit:42"]).start();
        assert!(
            within(SOON, || bench.work(&format!("ready-{name}")).exists()),
            "{name}"
        );
        live.signal(signal);
        let run = live.finish();
        assert_eq!(run.allowed(&word)["signal"], signal as i32, "{run}");
        assert_eq!(run.code(), 42, "the agent decides how it ends\n{run}");
    }
}

#[test]
fn an_agent_that_does_not_care_ends_by_the_signal() {
    let bench = Bench::new();
    let live = bench.probing(&bench.policy(), &["heartbeat:beat"]).start();
    assert!(within(SOON, || bench.work("beat").exists()));
    live.signal(Signal::SIGTERM);
    let run = live.finish();
    assert_eq!(run.code(), 143, "{run}");
}

#[test]
fn children_of_the_agent_get_the_signal_as_from_a_terminal() {
    let bench = Bench::new();
    let script = "trap 'echo parent; exit 3' INT; (trap 'echo child; exit 0' INT; touch ready; sleep 20) & wait; wait";
    let live = bench
        .agent(&bench.policy(), &["bash", "-c", script])
        .start();
    assert!(within(SOON, || bench.work("ready").exists()));
    live.signal(Signal::SIGINT);
    let run = live.finish();
    assert!(run.output.contains("parent"), "{run}");
    assert_eq!(run.code(), 3, "{run}");
}

#[test]
fn the_second_signal_ends_an_agent_that_ignores_the_first() {
    let bench = Bench::new();
    let live = bench
        .probing(
            &bench.policy(),
            &["block-signals", "child-heartbeat:child", "heartbeat:beat"],
        )
        .start();
    assert!(within(SOON, || bench.work("beat").exists()
        && bench.work("child").exists()));
    let tree = host::descendants(live.id());
    live.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        tree.iter().all(host::Process::is_alive),
        "once is not twice"
    );
    live.signal(Signal::SIGTERM);
    let asked = Instant::now();
    let run = live.finish();
    let took = asked.elapsed();
    assert!(
        took > Duration::from_secs(2),
        "a grace time was given: {took:?}"
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(run.code(), 137, "{run}");
    host::assert_gone(&tree);
}

#[test]
fn time_that_is_up_ends_the_agent() {
    let bench = Bench::new();
    let policy = bench.policy().section("resources: {wall_time: 1s}");
    let start = Instant::now();
    let run = bench.probing(&policy, &["heartbeat:beat"]).run();
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(run.code(), 143, "{run}");
    assert!(run.error.contains("wall_time"), "{run}");
    let exits = bench.entries_of("exit");
    assert!(
        exits[0]["reason"].as_str().unwrap().contains("wall_time"),
        "{exits:?}"
    );
}
