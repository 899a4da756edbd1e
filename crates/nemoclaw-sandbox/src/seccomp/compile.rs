//! From a profile to the filter for one architecture.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bpf::{self, Action, Leaf};
use super::profile::{Refusal, Verdict};
use super::{Architecture, Errno, Profile, syscall_name};

/// What a filter does with a call that it refuses and that is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalAction {
    /// The call waits for the owner of the [`Listener`](super::Listener), who records and answers it.
    Notify,
    /// The kernel answers with the error number at once; nothing is reported.
    Errno,
}

/// How many calls of the architecture end how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Allowed whatever their arguments.
    pub allowed: u32,
    /// Allowed with some arguments.
    pub conditional: u32,
    /// Refused whatever their arguments.
    pub refused: u32,
}

/// A program for the kernel, as plain data that can be sent to the process that installs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The name of the profile it was made from.
    pub profile: String,
    /// The only architecture it lets run.
    pub architecture: Architecture,
    /// What it does with calls whose refusal is to be reported.
    pub action: RefusalAction,
    /// How many calls end how.
    pub counts: Counts,
    /// The program; one instruction a number: code (16 bits), jump distances if true and if false
    /// (8 bits each), operand (32 bits), from the highest bits down.
    pub instructions: Vec<u64>,
    /// The error numbers of named calls that are answered otherwise than with `EPERM`.
    answers: BTreeMap<u32, u16>,
}

impl Filter {
    /// The error number with which to answer a reported call.
    ///
    /// `number` is [`Notification::syscall`](super::Notification::syscall).
    #[must_use]
    pub fn answer(&self, number: i32) -> Errno {
        let answer = u32::try_from(number)
            .ok()
            .and_then(|number| self.answers.get(&number));
        match answer {
            Some(errno) => Errno::from_raw_os_error(i32::from(*errno)),
            None if syscall_name(self.architecture, number).is_none() => Refusal::UNKNOWN.errno,
            None => Refusal::UNLISTED.errno,
        }
    }
}

/// Why a profile gives no filter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The compiler for argument checks refused one.
    #[error("could not compile the argument checks of `{call}` for {architecture}")]
    Check {
        /// The call.
        call: String,
        /// The architecture asked for.
        architecture: Architecture,
        /// What the compiler said.
        #[source]
        source: seccompiler::BackendError,
    },
    /// More instructions than the kernel takes.
    #[error("profile `{profile}` needs {length} instructions; the kernel takes at most {max}: check fewer arguments", max = bpf::MAX_INSTRUCTIONS)]
    TooLarge {
        /// The profile's name.
        profile: String,
        /// How many it needs.
        length: usize,
    },
}

impl Profile {
    /// Makes the filter for one architecture.
    ///
    /// A call the profile does not mention is refused with `EPERM`, a number that belongs to no call
    /// with `ENOSYS`; both are reported. Foreign architectures and x32 calls kill the process.
    ///
    /// # Errors
    ///
    /// A [`CompileError`] where the profile's argument checks do not fit into one program.
    pub fn compile(
        &self,
        architecture: Architecture,
        action: RefusalAction,
    ) -> Result<Filter, CompileError> {
        let refused = |refusal: Refusal| match action {
            RefusalAction::Notify if refusal.report => Action::Notify,
            RefusalAction::Notify | RefusalAction::Errno => Action::Errno(raw(refusal.errno)),
        };
        let mut counts = Counts::default();
        let mut leaves = BTreeMap::new();
        let mut checks = Vec::new();
        let mut answers = BTreeMap::new();
        let numbers = 0..=architecture.last_number();
        for number in numbers.clone() {
            let named = i32::try_from(number)
                .is_ok_and(|number| syscall_name(architecture, number).is_some());
            let entry = self.entry(architecture, number);
            let leaf = match entry.map(|entry| &entry.verdict) {
                Some(Verdict::Allow) => {
                    counts.allowed += 1;
                    Leaf::Return(Action::Allow)
                }
                Some(Verdict::When {
                    alternatives,
                    otherwise,
                }) => {
                    counts.conditional += 1;
                    answers.insert(number, raw(otherwise.errno));
                    let check = bpf::check(architecture, number, alternatives, refused(*otherwise));
                    checks.push(check.map_err(|source| CompileError::Check {
                        call: entry.map(|entry| entry.name.clone()).unwrap_or_default(),
                        architecture,
                        source,
                    })?);
                    Leaf::Check(checks.len() - 1)
                }
                Some(Verdict::Refuse(refusal)) => {
                    counts.refused += 1;
                    answers.insert(number, raw(refusal.errno));
                    Leaf::Return(refused(*refusal))
                }
                None if named => {
                    counts.refused += 1;
                    Leaf::Return(refused(Refusal::UNLISTED))
                }
                None => Leaf::Return(refused(Refusal::UNKNOWN)),
            };
            leaves.insert(number, leaf);
        }
        let unknown = Leaf::Return(refused(Refusal::UNKNOWN));
        leaves.insert(numbers.end() + 1, unknown);
        if architecture == Architecture::X86_64 {
            leaves.insert(bpf::X32.start, Leaf::Return(Action::KillProcess));
            leaves.insert(bpf::X32.end, unknown);
        }
        let program = bpf::assemble(architecture, &leaves, &checks);
        if program.len() > bpf::MAX_INSTRUCTIONS {
            let (profile, length) = (self.name().to_owned(), program.len());
            return Err(CompileError::TooLarge { profile, length });
        }
        answers.retain(|_, errno| *errno != raw(Refusal::UNLISTED.errno));
        Ok(Filter {
            profile: self.name().to_owned(),
            architecture,
            action,
            counts,
            instructions: program.iter().map(bpf::pack).collect(),
            answers,
        })
    }
}

/// The number for `SECCOMP_RET_ERRNO`'s data. Only the constants of the profile's table come here;
/// the kernel caps larger ones at `MAX_ERRNO`.
fn raw(errno: Errno) -> u16 {
    u16::try_from(errno.raw_os_error()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
