//! Carries out a [`LaunchPlan`](plan::LaunchPlan).
//!
//! The plan is data: the parent's half ([`launch`]) and the child's half
//! ([`init`], the program `nemoclaw-init`) do what it says, step by step, and
//! report the step that failed. Neither knows what a policy is.
//!
//! Unsafe code is fenced: it stands in the files that call the kernel where no
//! safe wrapper exists, each block with the conditions that make it sound.

pub mod cgroup;
mod channel;
pub mod init;
pub mod launch;
pub mod plan;
pub mod probe;
pub mod seccomp;
