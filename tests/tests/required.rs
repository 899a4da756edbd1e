//! What the policy requires and the host lacks stops the launch by name; what it only wishes for does not.

use nemoclaw_tests::Bench;

/// What the policy calls the mechanism, what the host is made to lack, whether an agent can run at all without it.
const LACKS: [(&str, &str); 2] = [("landlock", "landlock"), ("seccomp", "seccomp")];

#[test]
fn a_required_mechanism_that_is_missing_stops_the_launch_and_is_named() {
    for (mechanism, lack) in LACKS {
        let bench = Bench::new();
        let run = bench
            .probing(&bench.policy(), &["create:ran"])
            .without(lack)
            .run();
        assert_eq!(run.code(), 125, "{mechanism}\n{run}");
        assert!(run.error.contains(&format!("`{mechanism}`")), "{run}");
        assert!(run.error.contains("remedy"), "{run}");
        assert!(
            run.error.contains(&format!("{mechanism}: best_effort")),
            "the way out is told\n{run}"
        );
        assert!(!bench.work("ran").exists(), "{mechanism}");
        let entries = bench.entries_of("launch");
        assert_eq!(entries[0]["policy_decision"], "deny", "{entries:?}");
    }
}

#[test]
fn a_mechanism_that_is_only_wished_for_is_told_and_the_agent_runs() {
    for (mechanism, lack) in LACKS {
        let bench = Bench::new();
        let policy = bench.policy().enforce(mechanism, "best_effort");
        let run = bench
            .probing(&policy, &["create:ran", "read:/etc/shadow", "unshare:user"])
            .without(lack)
            .run();
        assert_eq!(run.code(), 0, "{mechanism}\n{run}");
        run.allowed("create:ran");
        // The other layers hold.
        run.refused("read:/etc/shadow");
        let told = run
            .error
            .lines()
            .any(|line| line.contains(mechanism) && line.contains("not enforced"));
        assert!(told, "{mechanism}\n{run}");
        let report = &bench.entries_of("launch")[0]["details"]["enforcement"];
        let finding = report
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["mechanism"] == mechanism)
            .unwrap();
        assert_eq!(finding["extent"], "not", "{finding}");
        assert!(
            !finding["lacks"].as_array().unwrap().is_empty(),
            "{finding}"
        );
    }
}

#[test]
fn best_effort_as_the_default_holds_for_every_mechanism() {
    let bench = Bench::new();
    let policy = bench.policy().enforce("default", "best_effort");
    let run = bench
        .probing(&policy, &["create:ran"])
        .without("landlock")
        .run();
    assert_eq!(run.code(), 0, "{run}");
    assert!(run.error.contains("landlock"), "{run}");
}

#[test]
fn without_user_namespaces_nothing_is_started() {
    let bench = Bench::new();
    for level in ["required", "best_effort"] {
        let policy = bench.policy().enforce("namespaces", level);
        let run = bench
            .probing(&policy, &["create:ran"])
            .without("namespaces")
            .run();
        // There is no sandbox without them, so no level lets the agent run.
        assert_eq!(run.code(), 125, "{level}\n{run}");
        assert!(
            run.error.contains("namespace") || run.error.contains("step "),
            "{run}"
        );
        assert!(!bench.work("ran").exists(), "{level}");
    }
}

#[test]
fn refusals_that_cannot_be_reported_are_still_refused() {
    let bench = Bench::new();
    let policy = bench.policy().enforce("seccomp", "best_effort");
    let run = bench
        .probing(&policy, &["call:bpf", "unshare:user"])
        .without("refusal-reports")
        .run();
    assert_eq!(run.code(), 0, "{run}");
    run.refused_as("call:bpf", &["EPERM"]);
    run.refused_as("unshare:user", &["EPERM"]);
    assert!(run.error.contains("seccomp is partly enforced"), "{run}");
}

#[test]
fn hooks_are_refused_when_required_and_told_when_denials_rest_on_them() {
    let bench = Bench::new();
    let run = bench
        .probing(
            &bench.policy().enforce("bpf_hooks", "required"),
            &["create:ran"],
        )
        .run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("`bpf_hooks`"), "{run}");
    assert!(!bench.work("ran").exists());
}

#[test]
fn doctor_says_what_is_missing() {
    let bench = Bench::new();
    let whole = bench.supervisor(&["doctor"]).run();
    assert!(whole.output.contains("landlock"), "{whole}");
    let lacking = bench
        .supervisor(&["doctor", "--format", "json"])
        .without("landlock")
        .run();
    let report: serde_json::Value = serde_json::from_str(&lacking.output).unwrap();
    let text = report.to_string();
    assert!(text.contains("landlock"), "{text}");
    assert_ne!(
        lacking.output,
        bench
            .supervisor(&["doctor", "--format", "json"])
            .run()
            .output
    );
}
