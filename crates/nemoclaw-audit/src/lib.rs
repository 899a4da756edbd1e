//! The record of what an agent did and what was decided about it.
//!
//! A log is a file of JSON objects, one a line. Each entry holds the SHA-256 digest of the exact bytes of the line
//! before it, so that no line can be changed, removed, inserted or moved without breaking the chain; a head file beside
//! the log names the last entry, so that none can be cut off the end. Several processes may append to one log.
//!
//! - [`Log`] appends batches durably, recovers from crashes and keeps space for the last words on a full disk.
//! - [`Writer`] owns a [`Log`] on a thread of its own, behind a bounded queue that loses nothing.
//! - [`verify`] names the first bad entry.
//! - [`Reader`] and [`Filter`] read and select; [`Refusals`] tells each distinct refusal once.
//!
//! `docs/audit.md` describes the format and its promises for people.
#![forbid(unsafe_code)]

mod encode;
mod entry;
mod file;
mod head;
mod instant;
mod log;
mod path;
mod read;
mod record;
mod recover;
mod refusals;
mod reserve;
mod show;
mod verify;
mod writer;

pub use entry::{Decision, Entry};
pub use head::{Head, HeadError};
pub use instant::{InstantError, parse_instant};
pub use jiff::Timestamp;
pub use log::{Appended, Durability, Log, LogError};
pub use path::{default_directory, default_path, log_name};
pub use read::{Filter, Line, ReadError, Reader};
pub use record::{Record, RecordError};
pub use refusals::{Refusal, Refusals};
pub use show::{Shown, escape_json};
pub use verify::{Bad, BadKind, HeadState, Report, VerifyError, verify};
pub use writer::{CloseError, SendError, Sender, Summary, Trouble, Writer};

/// The longest line, in bytes without the newline, that is written or accepted.
pub const MAX_LINE: usize = 1024 * 1024;
