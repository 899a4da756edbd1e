//! Writes the program that the kernel runs: what `seccompiler` makes, extended where it ends.
//!
//! `seccompiler` compiles the argument checks, one small program for each call that has any. It has no
//! user notification, does not tell x32 from x86_64, gives one error number to all and tests the
//! numbers one after the other. This file adds, in front of its programs,
//!
//! 1. the architecture: any other than the filter's kills the process;
//! 2. a balanced search over ranges of call numbers, whose leaves answer at once or go to the call's
//!    own program. The kernel finds the calls that are always allowed by following this search for
//!    every number when the filter is installed (Linux 5.11, `seccomp_cache_prepare`), and never runs
//!    the filter for those again; a short search makes both the installation and the rest cheap;
//! 3. user notification, by putting it in the place of a trace action with a marker.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::Architecture;
use super::profile::{Condition, Test, Width};

/// The most instructions a filter may have: `BPF_MAXINSNS`.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// `linux/filter.h`: load a word of `seccomp_data`, compare, jump, return.
pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The first and the first number past the x32 calls: the bit that marks them, the sign bit clear.
pub(super) const X32: std::ops::Range<u32> = 0x4000_0000..0x8000_0000;

/// Stands in `seccompiler`'s output where user notification belongs.
const MARKER: u32 = 0x4e43;

/// What a filter says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    KillProcess,
    Errno(u16),
    Notify,
}

impl Action {
    pub(super) fn value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }
}

/// Where the search over call numbers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    Return(Action),
    /// Run the program with this index.
    Check(usize),
}

/// Joins prologue, search and argument checks. `leaves` gives the first number of each range.
pub(super) fn assemble(
    architecture: Architecture,
    leaves: &BTreeMap<u32, Leaf>,
    checks: &[BpfProgram],
) -> BpfProgram {
    let mut ranges: Vec<(u32, Leaf)> = leaves.iter().map(|(start, leaf)| (*start, *leaf)).collect();
    ranges.dedup_by_key(|(_, leaf)| *leaf);

    let mut items = vec![
        Item::Final(statement(LOAD, ARCHITECTURE)),
        Item::Final(jump(JUMP_EQUAL, architecture.audit_value(), 1, 0)),
        Item::Final(statement(RETURN, Action::KillProcess.value())),
        Item::Final(statement(LOAD, NUMBER)),
    ];
    items.extend(search(&ranges));

    let mut starts = Vec::with_capacity(checks.len());
    let mut next = items.len();
    for check in checks {
        starts.push(next);
        next += check.len();
    }
    let place = |(position, item): (usize, &Item)| match item {
        Item::Final(instruction) => instruction.clone(),
        // Every program lies behind the search, so the distance is never negative.
        Item::ToCheck(index) => match starts
            .get(*index)
            .and_then(|start| start.checked_sub(position + 1))
        {
            Some(distance) => statement(JUMP, length(distance)),
            None => statement(RETURN, Action::KillProcess.value()),
        },
    };
    let mut program: BpfProgram = items.iter().enumerate().map(place).collect();
    program.extend(checks.iter().flatten().cloned());
    program
}

/// An instruction, or one whose distance is known only when all stand in place.
enum Item {
    Final(sock_filter),
    ToCheck(usize),
}

/// A binary search for the last range that starts at or before the loaded number.
fn search(ranges: &[(u32, Leaf)]) -> Vec<Item> {
    match ranges {
        [] => vec![Item::Final(statement(RETURN, Action::KillProcess.value()))],
        [(_, Leaf::Return(action))] => vec![Item::Final(statement(RETURN, action.value()))],
        [(_, Leaf::Check(index))] => vec![Item::ToCheck(*index)],
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let middle = high.first().map_or(0, |(start, _)| *start);
            let below = search(low);
            let mut items = match u8::try_from(below.len()) {
                Ok(distance) => vec![Item::Final(jump(
                    JUMP_GREATER_OR_EQUAL,
                    middle,
                    distance,
                    0,
                ))],
                Err(_) => vec![
                    Item::Final(jump(JUMP_GREATER_OR_EQUAL, middle, 0, 1)),
                    Item::Final(statement(JUMP, length(below.len()))),
                ],
            };
            items.extend(below);
            items.extend(search(high));
            items
        }
    }
}

/// The program that allows `number` where an alternative holds and otherwise does as told.
pub(super) fn check(
    architecture: Architecture,
    number: u32,
    alternatives: &[Vec<Condition>],
    otherwise: Action,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = alternatives
        .iter()
        .map(|conditions| {
            SeccompRule::new(conditions.iter().map(condition).collect::<Result<_, _>>()?)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mismatch = match otherwise {
        Action::Allow => SeccompAction::Allow,
        Action::KillProcess => SeccompAction::KillProcess,
        Action::Errno(errno) => SeccompAction::Errno(errno.into()),
        Action::Notify => SeccompAction::Trace(MARKER),
    };
    let target = match architecture {
        Architecture::X86_64 => TargetArch::x86_64,
        Architecture::Aarch64 => TargetArch::aarch64,
    };
    let rules = BTreeMap::from([(i64::from(number), rules)]);
    let mut program: BpfProgram =
        SeccompFilter::new(rules, mismatch, SeccompAction::Allow, target)?.try_into()?;
    for instruction in &mut program {
        if instruction.code == RETURN && instruction.k == libc::SECCOMP_RET_TRACE | MARKER {
            instruction.k = Action::Notify.value();
        }
    }
    Ok(program)
}

fn condition(condition: &Condition) -> Result<SeccompCondition, seccompiler::BackendError> {
    let width = match condition.width {
        Width::Dword => SeccompCmpArgLen::Dword,
        Width::Qword => SeccompCmpArgLen::Qword,
    };
    let (operator, value) = match condition.test {
        Test::Eq(value) => (SeccompCmpOp::Eq, value),
        Test::Ne(value) => (SeccompCmpOp::Ne, value),
        Test::Lt(value) => (SeccompCmpOp::Lt, value),
        Test::Le(value) => (SeccompCmpOp::Le, value),
        Test::Gt(value) => (SeccompCmpOp::Gt, value),
        Test::Ge(value) => (SeccompCmpOp::Ge, value),
        Test::MaskedEq { mask, value } => (SeccompCmpOp::MaskedEq(mask), value),
    };
    SeccompCondition::new(condition.argument, width, operator, value)
}

/// An instruction as one number: code, both distances, operand, from the highest bits down.
pub(super) fn pack(instruction: &sock_filter) -> u64 {
    (u64::from(instruction.code) << 48)
        | (u64::from(instruction.jt) << 40)
        | (u64::from(instruction.jf) << 32)
        | u64::from(instruction.k)
}

/// The reverse of [`pack`].
pub(super) fn unpack(packed: u64) -> libc::sock_filter {
    let [c1, c0, jt, jf, k3, k2, k1, k0] = packed.to_be_bytes();
    libc::sock_filter {
        code: u16::from_be_bytes([c1, c0]),
        jt,
        jf,
        k: u32::from_be_bytes([k3, k2, k1, k0]),
    }
}

fn statement(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// A distance. One beyond 32 bits would need a program a million times what the compiler lets pass;
/// the kernel refuses a jump out of the program.
fn length(distance: usize) -> u32 {
    u32::try_from(distance).unwrap_or(u32::MAX)
}
