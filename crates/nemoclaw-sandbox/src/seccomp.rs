//! System call filters as data: an allow-list profile in, a seccomp program out.
//!
//! ```text
//! profiles/agent.json --Profile::parse--> Profile --compile--> Filter --install--> Listener
//!                      (every name known)         (one BPF program)  (in the child)  (in the parent)
//! ```
//!
//! A [`Profile`] says which calls are allowed, which are allowed only with certain arguments and which
//! are refused, each with its reason. [`Profile::compile`] turns it into a [`Filter`] for one
//! [`Architecture`], which travels to the child as plain data and is installed there with [`install`].
//! What is refused is not silent: with [`RefusalAction::Notify`] the kernel hands each refused call to
//! the [`Listener`], whose owner records it and answers with [`Filter::answer`]. When nobody holds the
//! listener any more the kernel itself answers `ENOSYS`: the calls stay refused.
//!
//! See seccomp(2), seccomp_unotify(2) and the kernel's `Documentation/userspace-api/seccomp_filter.rst`.

mod architecture;
mod bpf;
mod compile;
mod constants;
mod install;
mod notify;
mod profile;
#[cfg(test)]
mod simulator;

pub use architecture::{Architecture, syscall_name, syscall_number};
pub use compile::{CompileError, Counts, Filter, RefusalAction};
pub use install::{Install, Support, install, probe};
pub use notify::{Event, Listener, Notification};
pub use profile::{Profile, ProfileError};
/// An error number, as the kernel returns it to the calling program: errno(3).
pub use rustix::io::Errno;
