//! System calls: those off the list are refused, by whatever way they are made, and put on record.

use std::process::Command;

use nemoclaw_tests::{Bench, program};
use serde_json::Value;

#[test]
fn every_call_that_no_agent_needs_is_refused() {
    let bench = Bench::new();
    // The probe itself knows what it can try.
    let listed = Command::new(program("nemoclaw-probe"))
        .arg("calls")
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let words: Vec<String> = listed["detail"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| format!("call:{}", name.as_str().unwrap()))
        .collect();
    assert!(words.len() > 50, "{words:?}");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = bench.probe(&bench.policy(), &words);
    run.all_refused(&words);
    for word in words {
        run.refused_as(word, &["EPERM", "ENOSYS"]);
    }
}

#[test]
fn a_number_that_no_call_has_is_answered_as_by_an_older_kernel() {
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["unknown-call"]);
    run.refused_as("unknown-call", &["ENOSYS"]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_by_the_entries_of_other_architectures_end_the_process() {
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["x32-call", "old-call"]);
    run.refused_as("x32-call", &["signal 31"]);
    // SIGSEGV where the kernel has no such entry.
    run.refused_as("old-call", &["signal 31", "signal 11"]);
}

#[test]
fn a_refused_call_is_recorded_with_its_program_and_told_at_the_end() {
    let bench = Bench::new();
    let run = bench.probe(
        &bench.policy(),
        &["unshare:net", "call:bpf", "socket:vsock:stream"],
    );
    run.all_refused(&["unshare:net", "call:bpf", "socket:vsock:stream"]);
    let entries = bench.entries_of("syscall");
    for start in ["unshare(0x40000000)", "bpf", "socket(40, "] {
        let found = entries.iter().find(|entry| {
            entry["resource"]
                .as_str()
                .is_some_and(|resource| resource.starts_with(start))
        });
        let found = found.unwrap_or_else(|| panic!("`{start}` is not on record: {entries:#?}"));
        assert_eq!(found["policy_decision"], "deny", "{found}");
        assert_eq!(found["enforced_by"], "seccomp", "{found}");
        assert!(
            found["program"]
                .as_str()
                .unwrap()
                .ends_with("/nemoclaw-probe"),
            "{found}"
        );
        assert!(found["pid"].as_u64().is_some_and(|pid| pid > 1), "{found}");
    }
    assert!(run.error.contains("unshare"), "{run}");
}

#[test]
fn a_call_repeated_many_times_does_not_fill_the_record() {
    let bench = Bench::new();
    let tries = vec!["call:bpf"; 200];
    let run = bench.probe(&bench.policy(), &tries);
    run.refused("call:bpf");
    let entries = bench.entries_of("syscall");
    assert!(entries.len() < 20, "{}", entries.len());
    let counts: Vec<u64> = entries
        .iter()
        .filter_map(|entry| entry["details"]["count"].as_u64())
        .collect();
    assert_eq!(counts.iter().max(), Some(&200), "{counts:?}");
}

#[test]
fn ordinary_programs_run_without_a_refusal() {
    let bench = Bench::new();
    let script = "set -e; ls -la /usr > list; seq 1 1000 | sort -r | head -n 3 > sorted; mkdir d; cp list d/; \
                  grep -c . d/list; find . -name list | wc -l; date > /dev/null; tar cf t.tar d; id -u > /dev/null";
    let run = bench.agent(&bench.policy(), &["sh", "-c", script]).run();
    assert_eq!(run.code(), 0, "{run}");
    assert!(
        bench.entries_of("syscall").is_empty(),
        "{:#?}",
        bench.entries_of("syscall")
    );
}
