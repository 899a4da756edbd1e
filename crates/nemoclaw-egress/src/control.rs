//! The supervisor's end of the control channel.
//!
//! Make a pair of connected Unix stream sockets (`UnixStream::pair`), give one end to the worker as
//! its standard input, and [`Control::connect`] the other. Closing it (dropping both halves) ends
//! the worker.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::codec::{self, CodecError, Lines};
use crate::protocol::{Configure, FromWorker, ToWorker};

/// Why the control channel cannot be used any further. The worker is to be ended after any of them.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The number of descriptors does not match the configuration.
    #[error(
        "{passed} listeners were passed where the configuration lists {listed}, of 1 to {}",
        Configure::MOST_LISTENERS
    )]
    Listeners {
        /// Descriptors given.
        passed: usize,
        /// Entries in [`Configure::listeners`].
        listed: usize,
    },
    /// The socket failed.
    #[error("could not {operation} the control channel")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// What the worker sent, or what should be sent to it, is no message.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// A configured worker's control channel.
#[derive(Debug)]
pub struct Control {
    sender: ControlSender,
    receiver: ControlReceiver,
}

impl Control {
    /// Sends the configuration and the listeners.
    ///
    /// The worker answers with [`FromWorker::Ready`] or [`FromWorker::Failed`] as its first message.
    /// The caller may close its listeners afterwards.
    ///
    /// # Errors
    /// [`ControlError::Listeners`] when `listeners` does not match `configure.listeners`; otherwise
    /// when the socket fails or the configuration is too long.
    pub async fn connect(
        stream: UnixStream,
        configure: Configure,
        listeners: &[BorrowedFd<'_>],
    ) -> Result<Control, ControlError> {
        if listeners.len() != configure.listeners.len()
            || listeners.is_empty()
            || listeners.len() > Configure::MOST_LISTENERS
        {
            return Err(ControlError::Listeners {
                passed: listeners.len(),
                listed: configure.listeners.len(),
            });
        }
        let line = codec::encode(&ToWorker::Configure(configure))?;
        let failed = |source| ControlError::Io {
            operation: "send the configuration over",
            source,
        };
        let sent = loop {
            stream.writable().await.map_err(failed)?;
            let attempt = stream.try_io(Interest::WRITABLE, || {
                send_with_rights(stream.as_fd(), &line, listeners)
            });
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
                Ok(sent) => break sent,
            }
        };
        let (read, mut write) = stream.into_split();
        // The descriptors went with the first byte; what is left is ordinary bytes.
        write
            .write_all(line.get(sent..).unwrap_or_default())
            .await
            .map_err(failed)?;
        Ok(Control {
            sender: ControlSender { stream: write },
            receiver: ControlReceiver {
                stream: read,
                lines: Lines::default(),
            },
        })
    }

    /// See [`ControlSender::send`].
    ///
    /// # Errors
    /// As [`ControlSender::send`].
    pub async fn send(&mut self, message: &ToWorker) -> Result<(), ControlError> {
        self.sender.send(message).await
    }

    /// See [`ControlReceiver::recv`].
    ///
    /// # Errors
    /// As [`ControlReceiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<FromWorker>, ControlError> {
        self.receiver.recv().await
    }

    /// The two directions, for use from two tasks.
    #[must_use]
    pub fn split(self) -> (ControlSender, ControlReceiver) {
        (self.sender, self.receiver)
    }
}

/// The direction to the worker.
#[derive(Debug)]
pub struct ControlSender {
    stream: OwnedWriteHalf,
}

impl ControlSender {
    /// Sends one message. Not to be cancelled midway: part of it may have been sent.
    ///
    /// # Errors
    /// When the worker is gone, or the message too long.
    pub async fn send(&mut self, message: &ToWorker) -> Result<(), ControlError> {
        let line = codec::encode(message)?;
        self.stream
            .write_all(&line)
            .await
            .map_err(|source| ControlError::Io {
                operation: "write to",
                source,
            })
    }
}

/// The direction from the worker.
#[derive(Debug)]
pub struct ControlReceiver {
    stream: OwnedReadHalf,
    lines: Lines,
}

impl ControlReceiver {
    /// The next message; `None` when the worker has closed its end. Safe to cancel.
    ///
    /// # Errors
    /// When the worker sends what is no message, too long a one, or closes within one.
    pub async fn recv(&mut self) -> Result<Option<FromWorker>, ControlError> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(line) = self.lines.next_line()? {
                return Ok(Some(codec::decode(&line)?));
            }
            let read = match self.stream.read(&mut chunk).await {
                Ok(read) => read,
                // The worker was killed with our bytes unread: for the reader that is its end.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(source) => {
                    return Err(ControlError::Io {
                        operation: "read from",
                        source,
                    });
                }
            };
            if read == 0 {
                self.lines.finish()?;
                return Ok(None);
            }
            self.lines.push(chunk.get(..read).unwrap_or_default());
        }
    }
}

fn send_with_rights(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    const SPACE: usize = rustix::cmsg_space!(ScmRights(Configure::MOST_LISTENERS));
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::net::sendmsg(
        socket,
        &[io::IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(sent)
}
