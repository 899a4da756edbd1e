use proptest::prelude::*;

use super::*;
use crate::seccomp::RefusalAction;

/// A profile with this text in place of the list of conditional rules and of refused calls.
fn profile(conditional: &str, refuse: &str) -> String {
    format!(
        r#"{{ "name": "t", "summary": "s", "allow": [{{ "calls": ["read"], "reason": "r" }}],
              "conditional": [{conditional}], "refuse": [{refuse}] }}"#
    )
}

fn conditional(comparison: &str) -> String {
    let rule = format!(r#"{{ "calls": ["write"], "reason": "r", "when": [[{comparison}]] }}"#);
    profile(&rule, "")
}

fn message(text: &str) -> String {
    match Profile::parse(text) {
        Ok(profile) => panic!("accepted: {profile:?}"),
        Err(ProfileError::Form(source)) => source.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_profiles_that_come_with_the_program_are_read() {
    let agent = Profile::parse(Profile::AGENT).expect("agent");
    assert_eq!(agent.name(), "agent");
    let reason = agent
        .reason(Architecture::X86_64, 272)
        .expect("reason for unshare");
    assert!(reason.contains("user namespace"), "{reason}");
    assert_eq!(agent.reason(Architecture::X86_64, -1), None);
    assert_eq!(
        Profile::parse(Profile::EGRESS).expect("egress").name(),
        "egress"
    );
}

#[test]
fn the_example_in_the_documentation_is_a_profile() {
    let page = include_str!("../../../../../docs/seccomp.md");
    let (_, rest) = page.split_once("```json\n").expect("example");
    let (example, _) = rest.split_once("```").expect("end of example");
    let profile = Profile::parse(example).expect("profile");
    for architecture in Architecture::ALL {
        // `fork` exists on one of them only.
        let filter = profile
            .compile(architecture, RefusalAction::Notify)
            .expect("filter");
        let allowed = if architecture == Architecture::X86_64 {
            3
        } else {
            2
        };
        assert_eq!(
            (filter.counts.allowed, filter.counts.conditional),
            (allowed, 1)
        );
    }
}

#[test]
fn a_misspelt_call_is_refused_by_its_name() {
    let text = profile(
        "",
        r#"{ "calls": ["mout"], "reason": "r", "errno": "EPERM" }"#,
    );
    assert_eq!(
        message(&text),
        "rule for `mout`: x86_64 has no such system call; correct the name or list the rule's `architectures`"
    );
}

#[test]
fn a_call_that_one_architecture_lacks_needs_its_architectures_listed() {
    let text = profile(
        "",
        r#"{ "calls": ["vfork"], "reason": "r", "errno": "EPERM" }"#,
    );
    assert!(message(&text).starts_with("rule for `vfork`: aarch64 has no such system call"));
    let listed =
        r#"{ "calls": ["vfork"], "reason": "r", "errno": "EPERM", "architectures": ["x86_64"] }"#;
    Profile::parse(&profile("", listed)).expect("profile");
}

#[test]
fn a_call_that_is_allowed_and_refused_is_an_error() {
    let text = profile(
        "",
        r#"{ "calls": ["read"], "reason": "r", "errno": "EPERM" }"#,
    );
    assert_eq!(
        message(&text),
        "`read` is listed as allow and again as refuse for x86_64; keep one of them"
    );
    let twice = profile(
        "",
        r#"{ "calls": ["bpf", "bpf"], "reason": "r", "errno": "EPERM" }"#,
    );
    assert_eq!(
        message(&twice),
        "`bpf` is listed as refuse and again as refuse for x86_64; keep one of them"
    );
}

#[test]
fn unknown_fields_constants_errors_and_architectures_are_refused() {
    let field = profile(
        "",
        r#"{ "calls": ["bpf"], "reason": "r", "errno": "EPERM", "log": true }"#,
    );
    assert!(message(&field).contains("unknown field `log`"));
    let errno = profile(
        "",
        r#"{ "calls": ["bpf"], "reason": "r", "errno": "EPREM" }"#,
    );
    assert!(message(&errno).starts_with("rule for `bpf`: `EPREM` is not one of EACCES,"));
    let constant =
        conditional(r#"{ "argument": 0, "width": "dword", "op": "eq", "value": "AF_INTE" }"#);
    assert_eq!(
        message(&constant),
        "rule for `write`: `AF_INTE` is neither a number nor a constant known here"
    );
    let architecture = profile(
        "",
        r#"{ "calls": ["bpf"], "reason": "r", "errno": "EPERM", "architectures": ["riscv64"] }"#,
    );
    assert!(message(&architecture).contains("unknown variant `riscv64`"));
}

#[test]
fn conditions_that_cannot_mean_anything_are_refused() {
    let cases = [
        (
            r#""argument": 6, "width": "dword", "op": "eq", "value": 1"#,
            "system calls have the arguments 0 to 5",
        ),
        (
            r#""argument": 0, "width": "dword", "op": "eq", "value": "0x100000000""#,
            "the number does not fit the width `dword`",
        ),
        (
            r#""argument": 0, "width": "dword", "op": "eq""#,
            "this `op` takes one `value` and no `values`",
        ),
        (
            r#""argument": 0, "width": "dword", "op": "in", "values": []"#,
            "this `op` takes a filled list of `values` and no `value`",
        ),
        (
            r#""argument": 0, "width": "dword", "op": "masked_eq", "value": 1"#,
            "this `op` takes a `mask`",
        ),
        (
            r#""argument": 0, "width": "dword", "op": "eq", "value": 1, "mask": 1"#,
            "`mask` belongs to `masked_eq` and `masked_in` only",
        ),
        (
            r#""argument": 0, "width": "dword", "op": "masked_eq", "value": 3, "mask": 1"#,
            "the value has bits outside the mask and never matches",
        ),
    ];
    for (comparison, problem) in cases {
        let expected = message(&conditional(&format!("{{ {comparison} }}")));
        assert!(expected.ends_with(problem), "{expected}");
        assert!(
            expected.starts_with("rule for `write`, argument "),
            "{expected}"
        );
    }
}

#[test]
fn empty_lists_and_reasons_are_refused() {
    let reason = profile(
        "",
        r#"{ "calls": ["bpf"], "reason": " ", "errno": "EPERM" }"#,
    );
    assert_eq!(
        message(&reason),
        "`rule for bpf: reason` is empty; name at least one member"
    );
    let calls = profile("", r#"{ "calls": [], "reason": "r", "errno": "EPERM" }"#);
    assert_eq!(
        message(&calls),
        "`refuse: calls` is empty; name at least one member"
    );
    let when = profile(r#"{ "calls": ["write"], "reason": "r", "when": [] }"#, "");
    assert_eq!(
        message(&when),
        "`rule for write: when` is empty; name at least one member"
    );
    let alternative = profile(r#"{ "calls": ["write"], "reason": "r", "when": [[]] }"#, "");
    assert!(message(&alternative).contains("alternative` is empty"));
}

#[test]
fn lists_that_multiply_beyond_the_room_of_a_filter_are_refused() {
    let list: Vec<String> = (0..20).map(|value| value.to_string()).collect();
    let list = list.join(",");
    let one = |argument| {
        format!(r#"{{ "argument": {argument}, "width": "qword", "op": "in", "values": [{list}] }}"#)
    };
    let text = conditional(&format!("{}, {}", one(0), one(1)));
    assert_eq!(
        message(&text),
        "rule for `write` has 400 alternatives; at most 96 fit"
    );
    let long = "x".repeat(Profile::MAX_TEXT + 1);
    assert!(message(&long).contains("at most 1048576 are read"));
}

#[test]
fn conditions_that_no_filter_could_hold_are_refused_before_they_are_written_out() {
    let values: Vec<String> = (0..96).map(|value| value.to_string()).collect();
    let calls: Vec<String> = (1..300)
        .filter_map(|number| crate::seccomp::syscall_name(Architecture::X86_64, number))
        .map(|name| format!("\"{name}\""))
        .collect();
    let rule = format!(
        r#"{{ "calls": [{}], "reason": "r", "architectures": ["x86_64"], "when":
           [[{{ "argument": 0, "width": "qword", "op": "in", "values": [{}] }}]] }}"#,
        calls.join(","),
        values.join(",")
    );
    assert_eq!(
        message(&profile(&rule, "")),
        "rule for `write` has 4128 conditions, counting those before it; at most 4096 fit"
    );
}

#[test]
fn a_profile_too_large_for_the_kernel_is_an_error_and_not_a_panic() {
    let values: Vec<String> = (0..96).map(|value| value.to_string()).collect();
    let names = [
        "write",
        "open_by_handle_at",
        "bpf",
        "ptrace",
        "mount",
        "dup",
        "dup3",
    ];
    let rules: Vec<String> = names
        .map(|name| {
            format!(
                r#"{{ "calls": ["{name}"], "reason": "r", "when":
                   [[{{ "argument": 0, "width": "qword", "op": "in", "values": [{}] }}]] }}"#,
                values.join(",")
            )
        })
        .into();
    let profile = Profile::parse(&profile(&rules.join(","), "")).expect("profile");
    let error = profile
        .compile(Architecture::X86_64, RefusalAction::Notify)
        .expect_err("too large")
        .to_string();
    assert!(error.starts_with("profile `t` needs "), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = Profile::parse(&text);
    }

    #[test]
    fn no_damage_to_a_real_profile_makes_reader_or_compiler_panic(
        start in 0..Profile::AGENT.len(),
        length in 0_usize..40,
        replacement in prop::sample::select(vec![
            "", "0", "9", "\"", "[]", "{}", "null", "-1", "18446744073709551615", "1e400", "\"x\"",
            "AF_UNIX", "qword", "not_in", ",", "\"values\": [1]",
        ]),
    ) {
        let end = (start + length).min(Profile::AGENT.len());
        let (Some(head), Some(tail)) = (Profile::AGENT.get(..start), Profile::AGENT.get(end..)) else {
            return Ok(());
        };
        if let Ok(profile) = Profile::parse(&format!("{head}{replacement}{tail}")) {
            for architecture in Architecture::ALL {
                let _ = profile.compile(architecture, RefusalAction::Notify);
            }
        }
    }
}
