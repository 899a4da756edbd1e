//! The model socket: carries an agent's model requests to the one upstream that its policy names.
//!
//! The program `nemoclaw-egress` is a jailed worker. It owns two listening sockets that were made in
//! the agent's network namespace, reads whatever the agent sends there, and forwards requests for
//! `inference.local` to the upstream, with the real key. Every request is first told to the
//! supervisor, and nothing leaves before the supervisor has answered that it is on record.
//!
//! This library holds both ends of that conversation, so that there is one codec:
//! [`Control`] is the supervisor's end, [`worker::run`] the whole of the worker.
//! `docs/model-socket.md` describes the wire and the rules for a reader who writes neither.
#![forbid(unsafe_code)]

pub mod codec;
pub mod control;
pub mod protocol;
pub mod upstream;
pub mod worker;

pub use control::{Control, ControlError, ControlReceiver, ControlSender};
pub use protocol::{
    Configure, Failed, Finished, FromWorker, Limits, ListenerKind, Outcome, Refused, Secret,
    Started, ToWorker, Upstream, Via,
};
pub use upstream::{UpstreamUrl, UpstreamUrlError};
