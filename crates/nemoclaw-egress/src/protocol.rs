//! The messages between the supervisor and the egress worker.
//!
//! ```text
//! supervisor                          worker
//!   Configure + listeners  ---------->  checks, loads roots, accepts
//!                          <----------  Ready | Failed
//!                          <----------  Started{id}        a request wants to leave
//!   Acknowledge{id}        ---------->                     it is on record: go
//!   or Refuse{id, reason}  ---------->                     it must not leave
//!                          <----------  Finished{id}       exactly one for each Started
//!                          <----------  Refused            the worker itself said no
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::upstream::UpstreamUrl;

/// What the supervisor sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// The first message and only the first; the listeners travel with it as `SCM_RIGHTS`.
    Configure(Configure),
    /// The request is durably on record and may leave.
    Acknowledge(Acknowledge),
    /// The request must not leave.
    Refuse(Refuse),
}

/// What the worker sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    /// The listeners are being served.
    Ready,
    /// The configuration cannot be carried out; the worker exits after it.
    Failed(Failed),
    /// A request wants to leave, and waits for [`ToWorker::Acknowledge`].
    Started(Started),
    /// A started request has ended, whatever its end; sent once for each [`FromWorker::Started`].
    Finished(Finished),
    /// A request was turned away by the worker's own rules; nothing of it left.
    Refused(Refused),
}

/// How the worker is to serve one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    /// The agent that the listeners belong to; used in diagnostics only.
    pub agent_id: String,
    /// What each passed descriptor is, in the order in which they are passed; one to
    /// [`Configure::MOST_LISTENERS`].
    pub listeners: Vec<ListenerKind>,
    /// Where model requests go; without one, each is answered with status 503.
    pub upstream: Option<Upstream>,
    /// Bounds on what one agent can use of the worker.
    #[serde(default)]
    pub limits: Limits,
}

impl Configure {
    /// The most descriptors that one configuration may carry.
    pub const MOST_LISTENERS: usize = 8;
}

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerKind {
    /// The address that `inference.local` resolves to.
    Model,
    /// The address that `HTTP_PROXY` names.
    Proxy,
}

/// The only place that model requests go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// What `http://inference.local/v1` stands for.
    pub url: UpstreamUrl,
    /// The credential that replaces the agent's own; without one, none is sent.
    pub key: Option<Secret>,
}

/// A credential: never shown by `Debug`, wiped when dropped.
///
/// It serializes in clear, because the channel to the worker is how it gets there.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
// INVARIANT: 1 to `Secret::MOST_BYTES` visible ASCII characters, so that it fits a header.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The longest credential, in bytes.
    pub const MOST_BYTES: usize = 8 * 1024;

    /// The credential in clear.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl TryFrom<String> for Secret {
    type Error = SecretError;

    fn try_from(text: String) -> Result<Secret, SecretError> {
        let text = Zeroizing::new(text);
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        if text.len() > Secret::MOST_BYTES {
            return Err(SecretError::TooLong);
        }
        match text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            Some(at) => Err(SecretError::NotVisible { at }),
            None => Ok(Secret(text)),
        }
    }
}

/// Why a text cannot be a credential. The text itself is never shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing there.
    #[error("the key is empty")]
    Empty,
    /// More than [`Secret::MOST_BYTES`].
    #[error("the key is longer than {} bytes", Secret::MOST_BYTES)]
    TooLong,
    /// A space, a line break, a control or non-ASCII character.
    #[error(
        "byte {at} of the key is not a visible ASCII character; remove blanks and line breaks around it"
    )]
    NotVisible {
        /// Offset of the first such byte.
        at: usize,
    },
}

/// Bounds on what one agent can use of the worker. Times are in milliseconds, of which more than a week
/// counts as a week; sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections open at once; further ones wait in the listener's backlog.
    pub connections: u32,
    /// Requests on their way upstream at once; further ones wait.
    pub requests: u32,
    /// How long a request waits for its turn before it is answered 503.
    pub queue_milliseconds: u64,
    /// Request line and headers together; never less than 8192.
    pub header_bytes: u32,
    /// Number of header lines.
    pub headers: u32,
    /// How long a client may take to send its headers, or to start its next request.
    pub header_milliseconds: u64,
    /// A request body.
    pub request_bytes: u64,
    /// How much of a JSON request is held back to learn the model's name.
    pub peek_bytes: u32,
    /// How long a client may pause within a request body, or stop reading a response.
    pub client_idle_milliseconds: u64,
    /// How long a request waits to be acknowledged before it is answered 503.
    pub acknowledge_milliseconds: u64,
    /// How long connecting to one address of the upstream may take.
    pub connect_milliseconds: u64,
    /// How long the upstream may take to begin its response.
    pub response_milliseconds: u64,
    /// How long the upstream may pause within its response.
    pub upstream_idle_milliseconds: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 256,
            requests: 64,
            queue_milliseconds: 30_000,
            header_bytes: 64 * 1024,
            headers: 128,
            header_milliseconds: 60_000,
            request_bytes: 256 * 1024 * 1024,
            peek_bytes: 1024 * 1024,
            client_idle_milliseconds: 120_000,
            acknowledge_milliseconds: 15_000,
            connect_milliseconds: 10_000,
            response_milliseconds: 900_000,
            upstream_idle_milliseconds: 300_000,
        }
    }
}

/// The request is on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledge {
    /// The number in [`Started`].
    pub id: u64,
}

/// The request must not leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// The number in [`Started`].
    pub id: u64,
    /// Told to the agent; what would make the request allowed.
    pub reason: String,
}

/// The configuration cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// What failed, for a person.
    pub reason: String,
}

/// How a request named its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// A path, and the name in `Host` (RFC 9112 §3.2.1).
    Origin,
    /// A whole URL, as sent to a proxy (RFC 9112 §3.2.2).
    Absolute,
    /// `CONNECT`, or a request inside such a tunnel (RFC 9110 §9.3.6).
    Tunnel,
}

/// A request wants to leave. All texts come from the agent, shortened and without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// Counts from 1 within this worker; never used twice.
    pub id: u64,
    /// How the request named its destination.
    pub via: Via,
    /// The request's method.
    pub method: String,
    /// The name that the agent asked for, such as `inference.local`.
    pub host: String,
    /// The path the agent asked for, without its query.
    pub path: String,
    /// TCP port of the agent's end, in its own network namespace.
    pub peer_port: u16,
    /// The model that a JSON request names.
    pub model: Option<String>,
}

/// A started request has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finished {
    /// The number in [`Started`].
    pub id: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What went wrong, for a person; absent when the outcome is [`Outcome::Ok`].
    pub reason: Option<String>,
    /// The status that the agent was given, if any.
    pub status: Option<u16>,
    /// Bytes of the request's body that were sent upstream.
    pub request_bytes: u64,
    /// Bytes of the response's body that were handed to the agent.
    pub response_bytes: u64,
    /// From the request's arrival to its end.
    pub milliseconds: u64,
    /// The model that the response says it used, or else the one that the request named.
    pub model: Option<String>,
    /// Tokens read, if the response told.
    pub input_tokens: Option<u64>,
    /// Tokens written, if the response told.
    pub output_tokens: Option<u64>,
}

/// How a started request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The upstream's whole response was handed over, whatever its status.
    Ok,
    /// The supervisor refused it; nothing left.
    Refused,
    /// The supervisor did not answer in time; nothing left.
    Unacknowledged,
    /// The upstream could not be reached, broke off, stalled, or answered what is not passed on.
    UpstreamError,
    /// The agent sent a body that broke off, stalled or was too large.
    ClientError,
    /// The agent went away before the end.
    ClientGone,
}

/// The worker turned a request away. All texts come from the agent, shortened and without control
/// characters, except `code` and `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// How the request named its destination; absent when the bytes were no request.
    pub via: Option<Via>,
    /// The request's method, or empty when the bytes were no request.
    pub method: String,
    /// `host`, or `host:port` where the agent gave a port; empty when none could be read.
    pub destination: String,
    /// The path the agent asked for, without its query; empty for `CONNECT`.
    pub path: String,
    /// TCP port of the agent's end, in its own network namespace.
    pub peer_port: u16,
    /// The status that the agent was given.
    pub status: u16,
    /// A fixed word for the kind of refusal, such as `destination_not_allowed`.
    pub code: String,
    /// Why, and what would be allowed, for a person.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        let secret = Secret::try_from("sk-very-secret".to_owned()).unwrap();
        let upstream = Upstream {
            url: UpstreamUrl::try_from("https://models.example/v1".to_owned()).unwrap(),
            key: Some(secret),
        };
        assert!(!format!("{upstream:?}").contains("very"));
    }

    #[test]
    fn a_secret_that_would_break_a_header_is_refused_without_being_shown() {
        for text in ["", "sk-a b", "sk-a\n", "sk-a\r\nX: y", "sk-ä"] {
            let error = Secret::try_from(text.to_owned()).unwrap_err();
            assert!(!error.to_string().contains("sk-"), "{error}");
        }
        assert_eq!(
            Secret::try_from("k".repeat(Secret::MOST_BYTES + 1)),
            Err(SecretError::TooLong)
        );
    }

    #[test]
    fn limits_left_out_are_the_defaults() {
        let limits: Limits = serde_json::from_str(r#"{"requests": 3}"#).unwrap();
        assert_eq!(
            limits,
            Limits {
                requests: 3,
                ..Limits::default()
            }
        );
    }
}
