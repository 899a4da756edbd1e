//! The whole of the worker: from its control channel to its last request.
//!
//! One thread, one reactor. Nothing here opens a file but the system's certificates and resolver
//! configuration, writes one, or starts a program.

mod body;
mod channel;
mod client;
mod forward;
mod headers;
mod ledger;
mod members;
mod patience;
mod redact;
mod refusal;
mod serve;
mod target;
mod usage;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::codec::{CodecError, Lines};
use crate::protocol::{Configure, Failed, FromWorker, Limits, Upstream};
use client::Connections;
use forward::Service;
use ledger::Ledger;

/// How long the supervisor may take to send the configuration.
const CONFIGURE: Duration = Duration::from_secs(30);
/// How long the last words of a worker that cannot start may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Longer than anyone waits, and short of what a clock can add.
const LONGEST_MILLISECONDS: u64 = 7 * 24 * 3600 * 1000;
/// More requests and connections at once than anyone needs, and what the queues can count.
const MOST_AT_ONCE: u32 = 16_384;

/// Why the worker ended other than by its control channel closing.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Standard input is not a Unix stream socket.
    #[error("standard input is not the control channel; this program is started by the supervisor")]
    NotAChannel(#[source] io::Error),
    /// The supervisor sent no configuration.
    #[error("no configuration arrived within {} s", CONFIGURE.as_secs())]
    Silent,
    /// Reading failed.
    #[error("could not read from the control channel")]
    Read(#[source] io::Error),
    /// Writing failed.
    #[error("could not write to the control channel")]
    Write(#[source] io::Error),
    /// A message was no message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Something else came first.
    #[error("the first message on the control channel is not `configure`")]
    NotConfigured,
    /// It came again.
    #[error("the control channel brought a second `configure`")]
    ConfiguredTwice,
    /// An answer to nothing.
    #[error("the control channel brought an answer to request {0}, which was never started")]
    UnknownRequest(u64),
    /// The descriptors do not match the configuration.
    #[error("{passed} descriptors were passed where the configuration lists {listed}")]
    Listeners {
        /// Descriptors that came.
        passed: usize,
        /// Entries in [`Configure::listeners`].
        listed: usize,
    },
    /// A descriptor is something else.
    #[error("a passed descriptor is not a listening stream socket")]
    NotAListener,
    /// The configuration cannot be carried out.
    #[error("{0}")]
    Failed(String),
}

/// Serves one agent until the control channel `control` closes, which is the normal end.
///
/// Needs a tokio runtime with IO and time, and one thread.
///
/// # Errors
/// When the channel brings what it should not, or the configuration cannot be carried out; the
/// supervisor was then told by [`FromWorker::Failed`] if it could be told.
pub async fn run(control: OwnedFd) -> Result<(), WorkerError> {
    let stream = std::os::unix::net::UnixStream::from(control);
    stream
        .set_nonblocking(true)
        .map_err(WorkerError::NotAChannel)?;
    let stream = UnixStream::from_std(stream).map_err(WorkerError::NotAChannel)?;
    let mut lines = Lines::default();
    let configured = timeout(
        CONFIGURE,
        channel::receive_configuration(&stream, &mut lines),
    )
    .await;
    let (reader, writer) = stream.into_split();
    let configured = match configured {
        Err(_) => Err(WorkerError::Silent),
        Ok(Ok(None)) => return Ok(()),
        Ok(Ok(Some((configure, listeners)))) => prepare(configure, listeners),
        Ok(Err(error)) => Err(error),
    };
    let prepared = match configured {
        Ok(prepared) => prepared,
        Err(error) => {
            let (sender, messages) = mpsc::channel(1);
            let reason = client::explain("the model socket could not be set up", &error);
            let reason = ledger::shown(&reason, 1024);
            // There is room for one.
            let _ = sender.try_send(FromWorker::Failed(Failed { reason }));
            drop(sender);
            // The supervisor learns it from the exit as well.
            let (_last, last) = oneshot::channel();
            let _ = timeout(LAST_WORDS, channel::send_messages(writer, messages, last)).await;
            return Err(error);
        }
    };
    let Prepared {
        service,
        listeners,
        places,
        messages,
    } = prepared;
    let ledger = Arc::clone(&service.ledger);
    for (kind, listener) in listeners {
        tokio::spawn(serve::serve(
            listener,
            kind,
            Arc::clone(&service),
            Arc::clone(&places),
        ));
    }
    let (stop, last) = oneshot::channel();
    let mut sending = std::pin::pin!(channel::send_messages(writer, messages, last));
    let ended = tokio::select! {
        ended = channel::receive_answers(reader, lines, &ledger) => ended,
        ended = &mut sending => return match ended {
            // The supervisor is gone: the reader's end, seen a moment earlier.
            Err(WorkerError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            ended => ended,
        },
    };
    if ended.is_ok() {
        // A supervisor that has closed only its own direction still listens.
        let _ = stop.send(());
        let _ = timeout(LAST_WORDS, sending).await;
    }
    ended
}

struct Prepared {
    service: Arc<Service>,
    listeners: Vec<(crate::protocol::ListenerKind, TcpListener)>,
    places: Arc<Semaphore>,
    messages: mpsc::Receiver<FromWorker>,
}

fn bounded(mut limits: Limits) -> Limits {
    for time in [
        &mut limits.queue_milliseconds,
        &mut limits.header_milliseconds,
        &mut limits.client_idle_milliseconds,
        &mut limits.acknowledge_milliseconds,
        &mut limits.connect_milliseconds,
        &mut limits.response_milliseconds,
        &mut limits.upstream_idle_milliseconds,
    ] {
        *time = (*time).min(LONGEST_MILLISECONDS);
    }
    limits
}

fn prepare(
    configure: Configure,
    listeners: Vec<channel::Listener>,
) -> Result<Prepared, WorkerError> {
    let limits = bounded(configure.limits);
    let at_once = |number: u32| usize::try_from(number.clamp(1, MOST_AT_ONCE)).unwrap_or(1);
    let upstream = configure
        .upstream
        .map(|upstream: Upstream| {
            let connections = Connections::new(&upstream, &limits).map_err(|error| {
                WorkerError::Failed(client::explain(
                    "could not read the system's certificates; install `ca-certificates`",
                    &error,
                ))
            })?;
            Ok::<_, WorkerError>((upstream, connections))
        })
        .transpose()?;
    let listeners = listeners
        .into_iter()
        .map(|(kind, listener)| {
            let listener =
                TcpListener::from_std(listener).map_err(|_| WorkerError::NotAListener)?;
            Ok((kind, listener))
        })
        .collect::<Result<_, WorkerError>>()?;
    // Two places for each open request, and some for refusals.
    let (sender, messages) = mpsc::channel(2 * at_once(limits.requests) + 64);
    // There is room: it is the first.
    let _ = sender.try_send(FromWorker::Ready);
    let patience = Duration::from_millis(limits.acknowledge_milliseconds);
    let places = Arc::new(Semaphore::new(at_once(limits.connections)));
    let service = Arc::new(Service {
        upstream,
        ledger: Ledger::new(sender, patience),
        turns: Arc::new(Semaphore::new(at_once(limits.requests))),
        limits,
    });
    Ok(Prepared {
        service,
        listeners,
        places,
        messages,
    })
}
