//! Processes: the agent sees and reaches its own and no others.

use nemoclaw_tests::Bench;

#[test]
fn only_its_own_processes_are_seen() {
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["pid", "parent", "processes"]);
    let own = run.allowed("pid").as_u64().unwrap();
    // Process 1 looks after the agent; the probe is the agent.
    assert_eq!(run.allowed("processes"), serde_json::json!([1, own]));
    assert_eq!(run.allowed("parent"), 1);
}

#[test]
fn processes_of_the_host_cannot_be_signalled_traced_or_read() {
    let bench = Bench::new();
    let host = std::process::id();
    let words: Vec<String> = [
        "signal",
        "signal-group",
        "ptrace-attach",
        "read-memory",
        "open-memory",
    ]
    .iter()
    .map(|what| format!("{what}:{host}"))
    .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = bench.probe(&bench.policy(), &words);
    for word in words {
        run.refused_as(word, &["ESRCH", "EPERM", "ENOENT"]);
    }
}

#[test]
fn tracing_is_refused_even_among_its_own() {
    let bench = Bench::new();
    let tries = ["ptrace-me", "ptrace-attach:1", "read-memory:1"];
    let run = bench.probe(&bench.policy(), &tries);
    for word in tries {
        run.refused_as(word, &["EPERM"]);
    }
}

#[test]
fn process_1_keeps_its_memory_its_files_and_its_root_to_itself() {
    let bench = Bench::new();
    let tries = [
        "open-memory:1",
        "read:/proc/1/environ",
        "read:/proc/1/maps",
        "list:/proc/1/fd",
        "list:/proc/1/root",
        "read:/proc/1/root/etc/shadow",
        "list:/proc/1/cwd",
        "execute:/proc/1/exe",
    ];
    let run = bench.probe(&bench.policy(), &tries);
    for word in tries {
        run.refused_as(word, &["EACCES", "EPERM", "ENOENT"]);
    }
}

#[test]
fn process_1_does_not_end_by_the_agents_signals() {
    let bench = Bench::new();
    let script = "kill -TERM 1; kill -KILL 1; kill -STOP 1; sleep 0.2; echo alive";
    let run = bench.agent(&bench.policy(), &["sh", "-c", script]).run();
    assert_eq!(run.output, "alive\n", "{run}");
    assert_eq!(run.code(), 0, "{run}");
}

#[test]
fn signals_to_everybody_reach_only_the_sandbox() {
    let bench = Bench::new();
    let before = std::process::id();
    // -1: every process that the caller may signal (kill(2)), without the caller.
    let run = bench
        .agent(
            &bench.policy(),
            &["sh", "-c", "trap '' TERM; kill -TERM -1; echo done"],
        )
        .run();
    assert_eq!(run.output, "done\n", "{run}");
    assert_eq!(before, std::process::id());
}
