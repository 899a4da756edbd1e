//! The audit log: complete, verifiable, out of the agent's reach.

use std::fs;

use nemoclaw_tests::{Bench, is_root, skip};

#[test]
fn a_run_leaves_its_launch_its_enforcement_and_its_end_on_record() {
    let bench = Bench::new();
    let policy = bench.policy().section("identity: {on_behalf_of: \"Ada\"}");
    let run = bench.probing(&policy, &["call:bpf", "exit:7"]).run();
    assert_eq!(run.code(), 7, "{run}");
    let entries = bench.entries();
    let actions: Vec<&str> = entries
        .iter()
        .filter_map(|entry| entry["action"].as_str())
        .collect();
    assert_eq!(actions, ["launch", "start", "syscall", "exit"]);
    let run_id = &entries[0]["run_id"];
    assert!(run_id.is_string());
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(entry["sequence"], index as u64 + 1);
        assert_eq!(entry["agent_id"], bench.name.as_str());
        assert_eq!(entry["user_on_behalf_of"], "Ada");
        assert_eq!(&entry["run_id"], run_id);
        for field in [
            "timestamp",
            "resource",
            "policy_decision",
            "privacy_classification",
            "model_used",
            "execution_time_ms",
            "cost_tokens",
            "previous",
            "pid",
            "program",
            "rule",
            "enforced_by",
            "reason",
        ] {
            assert!(entry.get(field).is_some(), "`{field}` is missing: {entry}");
        }
    }
    let enforcement = entries[0]["details"]["enforcement"].as_array().unwrap();
    let of = |mechanism: &str| {
        let found = enforcement
            .iter()
            .find(|finding| finding["mechanism"] == mechanism);
        found.unwrap_or_else(|| panic!("`{mechanism}` is not reported: {enforcement:?}"))["extent"]
            .clone()
    };
    for mechanism in ["namespaces", "mounts", "landlock", "seccomp", "identity"] {
        assert_eq!(of(mechanism), "fully", "{mechanism}");
    }
    assert_eq!(of("bpf_hooks"), "not");
    assert_eq!(entries[3]["details"]["ending"]["status"], 7);
    assert!(entries[3]["execution_time_ms"].is_u64());
}

#[test]
fn the_log_verifies_and_any_change_of_it_is_found() {
    let bench = Bench::new();
    for _ in 0..2 {
        let run = bench.probe(&bench.policy(), &["call:bpf"]);
        run.refused("call:bpf");
    }
    let log = bench.log();
    let verify = || {
        bench
            .supervisor(&["audit", "verify", log.to_str().unwrap()])
            .run()
    };
    let clean = verify();
    assert_eq!(clean.code(), 0, "{clean}");
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8);
    let flipped = text.replacen("\"allow\"", "\"denyy\"", 1);
    let join = |lines: &[&str]| {
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let removed = join(&[&lines[..3], &lines[4..]].concat());
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    let inserted = join(&[&lines[..4], &lines[3..]].concat());
    let cut = join(&lines[..6]);
    for (what, changed, place) in [
        ("flipped", flipped, "1"),
        ("removed", removed, "4"),
        ("swapped", join(&swapped), "3"),
        ("inserted", inserted, "5"),
        ("cut", cut, "6"),
    ] {
        fs::write(&log, changed).unwrap();
        let found = verify();
        assert_ne!(found.code(), 0, "{what}\n{found}");
        let said = format!("{}{}", found.output, found.error);
        assert!(said.contains(place), "{what}: entry {place}\n{said}");
    }
    fs::write(&log, &text).unwrap();
    assert_eq!(verify().code(), 0);
}

#[test]
fn the_log_is_out_of_the_agents_reach() {
    let bench = Bench::new();
    // Even where the policy gives the agent everything beneath the directory that holds it.
    let all = format!("{}/*", bench.root().display());
    let policy = bench
        .policy()
        .allow("read_files", &[&all])
        .allow("write_files", &[&all])
        .allow("delete_files", &[&all]);
    let directory = bench.root().join("audit");
    let log = bench.log();
    let words = [
        format!("list:{}", directory.display()),
        format!("read:{}", log.display()),
        format!("append:{}", log.display()),
        format!("truncate-path:{}", log.display()),
        format!("delete:{}", log.display()),
        format!("create:{}/new", directory.display()),
        format!(
            "rename:{}:{}/moved",
            directory.display(),
            bench.root().display()
        ),
        format!("rename:{0}:{0}-moved", bench.root().display()),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // Once to make the log, once with the log there; refusing to start is as good.
    for _ in 0..2 {
        let run = bench.probing(&policy, &words).run();
        if run.code() == 125 {
            assert!(run.error.contains("audit"), "{run}");
            continue;
        }
        assert_eq!(run.code(), 0, "{run}");
        let listed = run.find(words[0]);
        assert!(
            !listed.ok || listed.detail == serde_json::json!([]),
            "{listed:?}"
        );
        run.all_refused(&words[1..]);
    }
}

#[test]
fn a_launch_that_fails_is_on_record_with_its_reason() {
    let bench = Bench::new();
    let run = bench.agent(&bench.policy(), &["no-such-program"]).run();
    assert_eq!(run.code(), 127, "{run}");
    let entries = bench.entries();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(entries[0]["action"], "launch");
    assert!(
        entries[0]["reason"]
            .as_str()
            .unwrap()
            .contains("no-such-program"),
        "{entries:?}"
    );
    let decision = &entries[0]["policy_decision"];
    assert!(decision == "deny" || decision == "error", "{entries:?}");
}

#[test]
fn what_was_refused_is_told_at_the_end_once_each_with_the_remedy() {
    let bench = Bench::new();
    let run = bench.probe(
        &bench.policy(),
        &["call:bpf", "call:bpf", "call:bpf", "unshare:user"],
    );
    let told: Vec<&str> = run
        .error
        .lines()
        .filter(|line| line.contains("refused"))
        .collect();
    assert_eq!(
        told.iter().filter(|line| line.contains("bpf")).count(),
        1,
        "{run}"
    );
    assert_eq!(
        told.iter().filter(|line| line.contains("unshare")).count(),
        1,
        "{run}"
    );
}

#[test]
fn tail_and_query_show_what_happened() {
    let bench = Bench::new();
    let run = bench.probe(&bench.policy(), &["call:bpf"]);
    run.refused("call:bpf");
    let log = bench.log();
    let log = log.to_str().unwrap();
    let tail = bench.supervisor(&["audit", "tail", log]).run();
    assert_eq!(tail.code(), 0, "{tail}");
    for word in ["launch", "bpf", "exit"] {
        assert!(tail.output.contains(word), "`{word}`\n{tail}");
    }
    let query = bench
        .supervisor(&[
            "audit",
            "query",
            "--decision",
            "deny",
            "--format",
            "json",
            log,
        ])
        .run();
    assert_eq!(query.code(), 0, "{query}");
    assert!(
        query.output.contains("bpf") && !query.output.contains("\"launch\""),
        "{query}"
    );
}

#[test]
fn names_that_the_agent_chooses_cannot_forge_the_record() {
    let bench = Bench::new();
    let script = "cp /usr/bin/true \"$(printf 'a\\nb\\033[2Jc')\" 2>/dev/null; exit 0";
    let run = bench
        .agent(
            &bench.policy(),
            &["sh", "-c", script, "with\nnewline\u{1b}[31m"],
        )
        .run();
    assert_eq!(run.code(), 0, "{run}");
    let text = fs::read(bench.log()).unwrap();
    assert!(
        !text.contains(&0x1b),
        "no control character stands in the log"
    );
    let verify = bench
        .supervisor(&["audit", "verify", bench.log().to_str().unwrap()])
        .run();
    assert_eq!(verify.code(), 0, "{verify}");
    let tail = bench
        .supervisor(&["audit", "tail", bench.log().to_str().unwrap()])
        .run();
    assert!(!tail.output.contains('\u{1b}'), "{tail}");
}

/// Runs the command with a small file system at the log's directory, in a mount namespace of its own, and keeps what
/// was written in `kept`. `fill` is done in a shell, beside the command.
fn on_a_small_disk(bench: &Bench, fill: &str) -> Option<[String; 7]> {
    if !is_root() {
        skip("root", "only root can mount a small file system to fill");
        return None;
    }
    let script = format!(
        "mkdir audit kept && mount -t tmpfs -o size=4m none audit || exit 99\n\
         fill() {{ {fill}; }}\n\
         fill & cd work; \"$@\"; status=$?; wait; rm -f ../audit/filler; cp ../audit/* ../kept; exit $status"
    );
    let root = bench.root().display();
    let words = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &format!("cd '{root}'\n{script}"),
    ];
    Some(words.map(str::to_owned))
}

fn kept(bench: &Bench) -> std::path::PathBuf {
    bench
        .root()
        .join("kept")
        .join(format!("{}.jsonl", bench.name))
}

#[test]
fn a_disk_that_fills_up_stops_the_agent_and_loses_no_record() {
    let bench = Bench::new();
    let fill = "until [ -e work/ready ]; do sleep 0.02; done; cat /dev/zero > audit/filler 2>/dev/null; touch work/full";
    let Some(small) = on_a_small_disk(&bench, fill) else {
        return;
    };
    // Each is an entry of its own; together they are more than the space that the log keeps for itself.
    let sockets: Vec<String> = (100..600)
        .map(|family| format!("socket:{family}:stream"))
        .collect();
    let mut tries = vec!["create:ready", "wait-for:full"];
    tries.extend(sockets.iter().map(String::as_str));
    tries.push("heartbeat:beat");
    let run = bench
        .probing(&bench.policy(), &tries)
        .through(&["sh"])
        .through(&small)
        .run();
    assert_ne!(run.code(), 0, "{run}");
    assert_ne!(run.code(), 99, "{run}");
    assert!(
        run.error.contains("disk") && run.error.contains("full"),
        "{run}"
    );
    let beats = fs::read_to_string(bench.work("beat")).unwrap_or_default();
    assert!(
        beats.lines().count() < 200,
        "an agent that cannot be recorded does not go on\n{run}"
    );
    let log = kept(&bench);
    let verify = bench
        .supervisor(&["audit", "verify", log.to_str().unwrap()])
        .run();
    assert_eq!(verify.code(), 0, "what is there is whole\n{verify}");
    let text = fs::read_to_string(&log).unwrap();
    for expected in ["\"launch\"", "\"exit\""] {
        assert!(text.contains(expected), "`{expected}` was lost\n{text}");
    }
    // Every refusal that the agent was told of, and at most one that it was ended before it was told of.
    let told = run
        .tries()
        .iter()
        .filter(|found| found.name == "socket")
        .count();
    let recorded = text.matches("\"action\":\"syscall\"").count();
    assert!(
        recorded >= told,
        "{told} were refused, {recorded} are on record"
    );
}

#[test]
fn a_disk_that_is_full_stops_the_launch() {
    let bench = Bench::new();
    let Some(small) = on_a_small_disk(
        &bench,
        "cat /dev/zero > audit/filler 2>/dev/null; touch work/full",
    ) else {
        return;
    };
    let wait = "until [ -e full ]; do sleep 0.02; done; exec \"$@\"";
    let run = bench
        .probing(&bench.policy(), &["create:ran"])
        .through(&["sh", "-c", wait, "sh"])
        .through(&["sh"])
        .through(&small)
        .run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("audit log"), "{run}");
    assert!(!bench.work("ran").exists());
}

#[test]
fn agents_of_one_name_that_run_at_once_share_one_whole_log() {
    let bench = Bench::new();
    let lives: Vec<_> = (0..4)
        .map(|_| {
            bench
                .probing(
                    &bench.policy(),
                    &["call:bpf", "unshare:net", "sleep:300", "call:keyctl"],
                )
                .start()
        })
        .collect();
    for live in lives {
        let run = live.finish();
        assert_eq!(run.code(), 0, "{run}");
    }
    let entries = bench.entries();
    let runs: std::collections::BTreeSet<&str> = entries
        .iter()
        .filter_map(|entry| entry["run_id"].as_str())
        .collect();
    assert_eq!(runs.len(), 4);
    assert_eq!(bench.entries_of("exit").len(), 4);
    assert_eq!(bench.entries_of("syscall").len(), 12);
    let verify = bench
        .supervisor(&["audit", "verify", bench.log().to_str().unwrap()])
        .run();
    assert_eq!(verify.code(), 0, "{verify}");
}
