//! Bodies on their way: counted, bounded in size and in pauses, and never collected.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::ledger::Entry;
use super::members::Members;
use super::redact::Redactor;
use super::usage::UsageReader;
use crate::protocol::Outcome;

/// What ended a body before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFailure {
    #[error("the request body broke off")]
    BrokeOff,
    #[error("the request body paused for too long")]
    Paused,
    #[error("the request body is larger than this sandbox may send")]
    TooLarge,
    #[error("the request body names `model` more than once")]
    ModelRepeated,
}

/// What is known about a request body while the upstream reads it.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    bytes: AtomicU64,
    failure: OnceLock<BodyFailure>,
}

impl Sent {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn failure(&self) -> Option<BodyFailure> {
        self.failure.get().copied()
    }
}

/// A limit on pauses: starts when a wait starts, and is forgotten when it ends.
struct Pause {
    most: Duration,
    sleep: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl Pause {
    fn new(most: Duration) -> Pause {
        Pause {
            most,
            sleep: Box::pin(tokio::time::sleep(most)),
            is_waiting: false,
        }
    }

    /// Called when there was something.
    fn over(&mut self) {
        self.is_waiting = false;
    }

    /// Called when there was nothing; ready when that has lasted too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_waiting {
            self.is_waiting = true;
            self.sleep.as_mut().reset(Instant::now() + self.most);
        }
        self.sleep.as_mut().poll(context)
    }
}

/// The agent's request body: first what was held back to look at it, then the rest as it comes.
pub(crate) struct Upload {
    held: VecDeque<Bytes>,
    rest: Incoming,
    left: u64,
    members: Members,
    pause: Pause,
    sent: Arc<Sent>,
}

impl Upload {
    /// `left` is how many bytes may still come.
    pub(crate) fn new(rest: Incoming, left: u64, pause: Duration) -> Upload {
        Upload {
            held: VecDeque::new(),
            rest,
            left,
            members: Members::new(&["model"]),
            pause: Pause::new(pause),
            sent: Arc::default(),
        }
    }

    pub(crate) fn sent(&self) -> Arc<Sent> {
        Arc::clone(&self.sent)
    }

    /// Holds back up to `most` bytes of a JSON object to find the model that it names.
    pub(crate) async fn find_model(&mut self, most: u64) -> Result<Option<String>, BodyFailure> {
        let mut held: u64 = 0;
        while held < most && !self.members.is_over() && self.members.value(0).is_none() {
            let next = std::future::poll_fn(|context| self.poll_rest(context)).await;
            match next {
                None => break,
                Some(bytes) => {
                    let bytes = bytes?;
                    held = held.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                    self.held.push_back(bytes);
                }
            }
        }
        Ok(self.members.text(0))
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyFailure>>> {
        loop {
            let frame = match Pin::new(&mut self.rest).poll_frame(context) {
                Poll::Pending => {
                    return match self.pause.poll(context) {
                        Poll::Ready(()) => Poll::Ready(Some(Err(BodyFailure::Paused))),
                        Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Some(Err(BodyFailure::BrokeOff)));
                }
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            self.pause.over();
            // Trailers stay behind: no model interface has any.
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let Some(left) = self.left.checked_sub(size) else {
                return Poll::Ready(Some(Err(BodyFailure::TooLarge)));
            };
            self.left = left;
            self.members.push(&bytes);
            if self.members.is_repeated(0) {
                return Poll::Ready(Some(Err(BodyFailure::ModelRepeated)));
            }
            return Poll::Ready(Some(Ok(bytes)));
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let this = &mut *self;
        let next = match this.held.pop_front() {
            Some(bytes) => Some(Ok(bytes)),
            None => std::task::ready!(this.poll_rest(context)),
        };
        Poll::Ready(next.map(|bytes| match bytes {
            Ok(bytes) => {
                let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                this.sent.bytes.fetch_add(size, Ordering::Relaxed);
                Ok(Frame::data(bytes))
            }
            Err(failure) => {
                // The first failure is the cause; there is no second.
                let _ = this.sent.failure.set(failure);
                Err(failure)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held: usize = self.held.iter().map(Bytes::len).sum();
        longer(self.rest.size_hint(), held)
    }
}

/// The upstream's response body, and with it all that ends when it ends.
pub(crate) struct Download {
    rest: Incoming,
    redactor: Option<Redactor>,
    reader: UsageReader,
    pause: Pause,
    sent: Arc<Sent>,
    entry: Entry,
    _turn: OwnedSemaphorePermit,
}

impl Download {
    pub(crate) fn new(
        rest: Incoming,
        redactor: Option<Redactor>,
        reader: UsageReader,
        pause: Duration,
        sent: Arc<Sent>,
        entry: Entry,
        turn: OwnedSemaphorePermit,
    ) -> Download {
        let mut download = Download {
            rest,
            redactor,
            reader,
            pause: Pause::new(pause),
            sent,
            entry,
            _turn: turn,
        };
        // A body known to be empty is never asked for anything.
        if download.rest.is_end_stream() {
            download.close(Outcome::Ok, None);
        }
        download
    }

    fn close(&mut self, outcome: Outcome, reason: Option<&str>) {
        self.entry.set_request_bytes(self.sent.bytes());
        self.entry.set_usage(self.reader.finish());
        self.entry.close(outcome, reason, None);
    }

    fn held(&self) -> usize {
        self.redactor.as_ref().map_or(0, Redactor::held)
    }

    fn fail(&mut self, reason: &str) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        // What the agent's own body did wrong is the cause, if it did.
        match self.sent.failure() {
            Some(failure) => self.close(Outcome::ClientError, Some(&failure.to_string())),
            None => self.close(Outcome::UpstreamError, Some(reason)),
        }
        Poll::Ready(Some(Err(io::Error::other(reason.to_owned()))))
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        loop {
            let frame = match Pin::new(&mut this.rest).poll_frame(context) {
                Poll::Pending => {
                    return match this.pause.poll(context) {
                        Poll::Ready(()) => this.fail("the upstream paused for too long"),
                        Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    return this.fail(&super::client::explain(
                        "the upstream broke off its response",
                        &error,
                    ));
                }
                Poll::Ready(None) => {
                    let rest = this.redactor.as_mut().map(Redactor::finish);
                    let rest = rest.unwrap_or_default();
                    this.entry.add_response_bytes(rest.len());
                    this.close(Outcome::Ok, None);
                    if rest.is_empty() {
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(rest.into()))));
                }
            };
            this.pause.over();
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            this.reader.push(&bytes);
            let is_last = this.rest.is_end_stream();
            let out = match &mut this.redactor {
                None => bytes,
                Some(redactor) => {
                    let mut out = redactor.push(&bytes);
                    if is_last {
                        out.extend(redactor.finish());
                    }
                    out.into()
                }
            };
            this.entry.add_response_bytes(out.len());
            if is_last {
                // The server does not ask again after the last byte of a known length.
                this.close(Outcome::Ok, None);
            }
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held() == 0 && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        longer(self.rest.size_hint(), self.held())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.close(Outcome::ClientGone, Some("the agent went away"));
    }
}

fn longer(rest: SizeHint, held: usize) -> SizeHint {
    let held = u64::try_from(held).unwrap_or(u64::MAX);
    let mut hint = SizeHint::new();
    if let Some(exact) = rest.exact() {
        hint.set_exact(exact.saturating_add(held));
    } else {
        hint.set_lower(rest.lower().saturating_add(held));
    }
    hint
}
