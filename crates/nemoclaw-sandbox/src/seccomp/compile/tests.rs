mod promises;

use super::super::simulator::{Call, run};
use super::super::{Architecture, Errno, Profile, syscall_name, syscall_number};
use super::*;
use crate::seccomp::bpf;
use crate::seccomp::profile::{Test, Verdict};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

fn profiles() -> [Profile; 2] {
    [Profile::AGENT, Profile::EGRESS].map(|text| Profile::parse(text).expect("profile"))
}

fn agent(action: RefusalAction) -> Filter {
    let profile = Profile::parse(Profile::AGENT).expect("profile");
    profile
        .compile(Architecture::X86_64, action)
        .expect("filter")
}

fn decide(filter: &Filter, name: &str, arguments: [u64; 6]) -> u32 {
    let number = syscall_number(filter.architecture, name).expect("call");
    run(
        &filter.instructions,
        &Call::new(filter.architecture, number, arguments),
    )
    .0
}

/// What the profile says, without a program: the first thing that a reader of the data would answer.
fn naive(
    profile: &Profile,
    architecture: Architecture,
    action: RefusalAction,
    number: u32,
    arguments: &[u64; 6],
) -> u32 {
    if architecture == Architecture::X86_64 && number & 0xc000_0000 == 0x4000_0000 {
        return KILL;
    }
    let refused = |refusal: Refusal| match action {
        RefusalAction::Notify if refusal.report => NOTIFY,
        _ => libc::SECCOMP_RET_ERRNO | refusal.errno.raw_os_error().cast_unsigned(),
    };
    match profile
        .entry(architecture, number)
        .map(|entry| &entry.verdict)
    {
        Some(Verdict::Allow) => ALLOW,
        Some(Verdict::When {
            alternatives,
            otherwise,
        }) => {
            let holds = |all: &Vec<_>| {
                all.iter()
                    .all(|one: &crate::seccomp::profile::Condition| one.holds(arguments))
            };
            if alternatives.iter().any(holds) {
                ALLOW
            } else {
                refused(*otherwise)
            }
        }
        Some(Verdict::Refuse(refusal)) => refused(*refusal),
        None if syscall_name(architecture, number.cast_signed()).is_some() => {
            refused(Refusal::UNLISTED)
        }
        None => refused(Refusal::UNKNOWN),
    }
}

/// Argument values worth trying: what the profile's conditions speak of, neighbours, other halves.
fn interesting(profile: &Profile, architecture: Architecture, number: u32) -> Vec<u64> {
    let mut values = vec![0, 1, u64::MAX, 0x8000_0000, 1 << 32, 0xffff_ffff];
    if let Some(Verdict::When { alternatives, .. }) = profile
        .entry(architecture, number)
        .map(|entry| &entry.verdict)
    {
        for condition in alternatives.iter().flatten() {
            let (value, mask) = match condition.test {
                Test::Eq(value)
                | Test::Ne(value)
                | Test::Lt(value)
                | Test::Le(value)
                | Test::Gt(value)
                | Test::Ge(value) => (value, 0),
                Test::MaskedEq { mask, value } => (value, mask),
            };
            let half = 0xdead_beef_0000_0000;
            values.extend([
                value,
                value | half,
                value.wrapping_add(1),
                value.wrapping_sub(1),
                value | mask,
            ]);
            values.extend(
                (0..64)
                    .map(|bit| 1 << bit)
                    .filter(|bit| mask & bit != 0)
                    .map(|bit| value ^ bit),
            );
            values.push(value | !mask);
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// A small generator, so that a failure can be run again.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        let length = u64::try_from(from.len()).expect("length");
        from[usize::try_from(self.next() % length).expect("index")]
    }
}

#[test]
fn the_program_decides_every_call_as_the_data_says() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let far = [
        0x3fff_ffff,
        0x4000_0000,
        0x4000_0001,
        0x4000_0270,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
    ];
    for profile in profiles() {
        for architecture in Architecture::ALL {
            for action in [RefusalAction::Notify, RefusalAction::Errno] {
                let filter = profile.compile(architecture, action).expect("filter");
                for number in (0..600).chain(far) {
                    let values = interesting(&profile, architecture, number);
                    let conditional = matches!(
                        profile
                            .entry(architecture, number)
                            .map(|entry| &entry.verdict),
                        Some(Verdict::When { .. })
                    );
                    for _ in 0..if conditional { 3000 } else { 20 } {
                        let arguments: [u64; 6] = std::array::from_fn(|_| numbers.pick(&values));
                        let call = Call::new(architecture, number, arguments);
                        let (decision, _) = run(&filter.instructions, &call);
                        let expected = naive(&profile, architecture, action, number, &arguments);
                        assert_eq!(
                            decision,
                            expected,
                            "{} {architecture} {action:?} {number} {arguments:x?}",
                            profile.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn calls_of_another_architecture_kill_the_process() {
    for profile in profiles() {
        for architecture in Architecture::ALL {
            let filter = profile
                .compile(architecture, RefusalAction::Notify)
                .expect("filter");
            // AUDIT_ARCH_I386, ARM, X86_64, AARCH64, RISCV64, none.
            for foreign in [
                0x4000_0003,
                0x4000_0028,
                0xc000_003e,
                0xc000_00b7,
                0xc000_00f3,
                0,
            ] {
                for number in [0, 1, 39, 59, 400, 0x4000_0001] {
                    let call = Call {
                        number,
                        architecture: foreign,
                        arguments: [0; 6],
                    };
                    let (decision, _) = run(&filter.instructions, &call);
                    if foreign != architecture.audit_value() {
                        assert_eq!(decision, KILL, "{architecture} {foreign:x} {number}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_allowed_call_takes_few_instructions_and_reads_no_argument() {
    for profile in profiles() {
        for architecture in Architecture::ALL {
            let filter = profile
                .compile(architecture, RefusalAction::Notify)
                .expect("filter");
            for number in 0..=architecture.last_number() {
                let is_allowed = matches!(
                    profile
                        .entry(architecture, number)
                        .map(|entry| &entry.verdict),
                    Some(Verdict::Allow)
                );
                if !is_allowed {
                    continue;
                }
                let (_, steps) = run(
                    &filter.instructions,
                    &Call::new(architecture, number, [0; 6]),
                );
                assert!(
                    steps <= 14,
                    "{architecture} {number} takes {steps} instructions"
                );
            }
        }
    }
}

#[test]
fn no_filter_of_ours_is_longer_than_a_quarter_of_what_the_kernel_takes() {
    for profile in profiles() {
        for architecture in Architecture::ALL {
            let filter = profile
                .compile(architecture, RefusalAction::Notify)
                .expect("filter");
            let length = filter.instructions.len();
            assert!(
                length <= bpf::MAX_INSTRUCTIONS / 4,
                "{} {architecture}: {length}",
                profile.name()
            );
        }
    }
}

#[test]
fn the_answer_to_a_reported_call_is_what_the_kernel_would_have_said_itself() {
    for profile in profiles() {
        for architecture in Architecture::ALL {
            let notify = profile
                .compile(architecture, RefusalAction::Notify)
                .expect("filter");
            let errno = profile
                .compile(architecture, RefusalAction::Errno)
                .expect("filter");
            for number in (0..600).chain([0x8000_0000, u32::MAX]) {
                let call = Call::new(architecture, number, [u64::MAX - 1; 6]);
                if run(&notify.instructions, &call).0 == NOTIFY {
                    let answer = notify
                        .answer(number.cast_signed())
                        .raw_os_error()
                        .cast_unsigned();
                    let expected = run(&errno.instructions, &call).0;
                    assert_eq!(
                        libc::SECCOMP_RET_ERRNO | answer,
                        expected,
                        "{architecture} {number}"
                    );
                }
            }
        }
    }
    let filter = agent(RefusalAction::Errno);
    assert_eq!(decide(&filter, "unshare", [0; 6]), EPERM);
    assert_eq!(filter.answer(-1), Errno::NOSYS);
    assert_eq!(filter.answer(5000), Errno::NOSYS);
}

#[test]
fn every_operator_and_width_is_compiled_as_it_is_read() {
    let mut numbers = Numbers(99);
    for operator in [
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "masked_eq",
        "in",
        "not_in",
        "masked_in",
    ] {
        for width in ["dword", "qword"] {
            let value = if width == "dword" {
                "0x80000010"
            } else {
                "0x1234567880000010"
            };
            let operand = match operator {
                "in" | "not_in" => format!(r#""values": ["{value}", 3, 17]"#),
                "masked_in" => format!(r#""values": ["{value}", 16], "mask": "{value}""#),
                "masked_eq" => format!(r#""value": 16, "mask": "{value}""#),
                _ => format!(r#""value": "{value}""#),
            };
            let text = format!(
                r#"{{ "name": "t", "summary": "s", "allow": [{{ "calls": ["read"], "reason": "r" }}],
                "conditional": [{{ "calls": ["write"], "reason": "r",
                "when": [[{{ "argument": 5, "width": "{width}", "op": "{operator}", {operand} }},
                          {{ "argument": 0, "width": "qword", "op": "le", "value": "0xffffffffff" }}]] }}] }}"#
            );
            let profile = Profile::parse(&text).expect(&text);
            let filter = profile
                .compile(Architecture::Aarch64, RefusalAction::Errno)
                .expect("filter");
            let number = syscall_number(Architecture::Aarch64, "write").expect("write");
            let values = interesting(&profile, Architecture::Aarch64, number);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..4000 {
                let arguments: [u64; 6] = std::array::from_fn(|_| numbers.pick(&values));
                let (decision, _) = run(
                    &filter.instructions,
                    &Call::new(Architecture::Aarch64, number, arguments),
                );
                let expected = naive(
                    &profile,
                    Architecture::Aarch64,
                    RefusalAction::Errno,
                    number,
                    &arguments,
                );
                assert_eq!(decision, expected, "{operator} {width} {arguments:x?}");
                seen.insert(decision);
            }
            assert_eq!(seen.len(), 2, "{operator} {width} must both hold and fail");
        }
    }
}

#[test]
fn a_filter_survives_its_journey_as_json() {
    let filter = agent(RefusalAction::Notify);
    let text = serde_json::to_string(&filter).expect("text");
    assert_eq!(
        serde_json::from_str::<Filter>(&text).expect("filter"),
        filter
    );
}
