//! The worker's end of the control channel.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::WorkerError;
use super::ledger::{Answer, Ledger};
use crate::codec::{self, Lines};
use crate::protocol::{Configure, FromWorker, ListenerKind, ToWorker};

/// How long a task may take to say what it was about to say when the end came.
const QUIET: Duration = Duration::from_millis(50);

/// A listener with its purpose.
pub(crate) type Listener = (ListenerKind, TcpListener);

/// Reads the first message and the listeners that travel with it. `None` when the channel closes
/// before any.
pub(crate) async fn receive_configuration(
    stream: &UnixStream,
    lines: &mut Lines,
) -> Result<Option<(Configure, Vec<Listener>)>, WorkerError> {
    let mut descriptors = Vec::new();
    let line = loop {
        if let Some(line) = lines.next_line()? {
            break line;
        }
        stream.readable().await.map_err(WorkerError::Read)?;
        let mut chunk = [0; 4096];
        let read = stream.try_io(Interest::READABLE, || {
            receive(stream.as_fd(), &mut chunk, &mut descriptors)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(WorkerError::Read(error)),
            Ok(0) => {
                lines.finish()?;
                return Ok(None);
            }
            Ok(read) => lines.push(chunk.get(..read).unwrap_or_default()),
        }
    };
    let ToWorker::Configure(configure) = codec::decode(&line)? else {
        return Err(WorkerError::NotConfigured);
    };
    if descriptors.len() != configure.listeners.len() || descriptors.is_empty() {
        return Err(WorkerError::Listeners {
            passed: descriptors.len(),
            listed: configure.listeners.len(),
        });
    }
    let listeners = configure
        .listeners
        .iter()
        .zip(descriptors)
        .map(|(kind, descriptor)| Ok((*kind, listener(descriptor)?)))
        .collect::<Result<_, WorkerError>>()?;
    Ok(Some((configure, listeners)))
}

/// Passes the supervisor's answers on until the channel closes.
pub(crate) async fn receive_answers(
    mut stream: OwnedReadHalf,
    mut lines: Lines,
    ledger: &Ledger,
) -> Result<(), WorkerError> {
    let mut chunk = [0; 4096];
    loop {
        while let Some(line) = lines.next_line()? {
            let (id, answer) = match codec::decode(&line)? {
                ToWorker::Configure(_) => return Err(WorkerError::ConfiguredTwice),
                ToWorker::Acknowledge(message) => (message.id, Answer::Acknowledged),
                ToWorker::Refuse(message) => (message.id, Answer::Refused(message.reason)),
            };
            if !ledger.answer(id, answer) {
                return Err(WorkerError::UnknownRequest(id));
            }
        }
        // A plain read leaves descriptors that might come along behind; the kernel closes them.
        let read = match stream.read(&mut chunk).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read.map_err(WorkerError::Read)?,
        };
        if read == 0 {
            return Ok(lines.finish()?);
        }
        lines.push(chunk.get(..read).unwrap_or_default());
    }
}

/// Writes messages until nobody can send any more; after `last`, those that are still on their way.
pub(crate) async fn send_messages(
    mut stream: OwnedWriteHalf,
    mut messages: mpsc::Receiver<FromWorker>,
    mut last: oneshot::Receiver<()>,
) -> Result<(), WorkerError> {
    let mut closing = false;
    loop {
        let message = if closing {
            timeout(QUIET, messages.recv()).await.unwrap_or(None)
        } else {
            tokio::select! {
                biased;
                message = messages.recv() => message,
                _ = &mut last => {
                    closing = true;
                    continue;
                }
            }
        };
        let Some(message) = message else {
            return Ok(());
        };
        let line = codec::encode(&message)?;
        stream.write_all(&line).await.map_err(WorkerError::Write)?;
    }
}

fn receive(
    socket: BorrowedFd<'_>,
    chunk: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    const SPACE: usize = rustix::cmsg_space!(ScmRights(Configure::MOST_LISTENERS));
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [io::IoSliceMut::new(chunk)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > Configure::MOST_LISTENERS
    {
        return Err(io::Error::other("too many descriptors were passed"));
    }
    Ok(received.bytes)
}

fn listener(descriptor: OwnedFd) -> Result<TcpListener, WorkerError> {
    let is_listener = rustix::net::sockopt::socket_type(&descriptor)
        .is_ok_and(|kind| kind == SocketType::STREAM)
        && rustix::net::sockopt::socket_acceptconn(&descriptor).is_ok_and(|listens| listens);
    if !is_listener {
        return Err(WorkerError::NotAListener);
    }
    let listener = TcpListener::from(descriptor);
    listener
        .set_nonblocking(true)
        .map_err(|_| WorkerError::NotAListener)?;
    Ok(listener)
}
