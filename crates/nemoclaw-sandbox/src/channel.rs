//! The socket between the supervisor and `nemoclaw-init`: fixed-size messages,
//! with descriptors beside them (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Most descriptors that travel with one message.
pub(crate) const MAX_DESCRIPTORS: usize = 16;

/// What is said. Each is sent as three little-endian 32-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// To init: the plan (a memory file) and the descriptors that it names.
    Plan,
    /// From init: the namespaces exist, the id maps may be written.
    Entered,
    /// To init: go on.
    Go,
    /// From init: a socket made by the step with this index.
    Listening { step: u32 },
    /// From init: the master of the agent's terminal.
    Terminal,
    /// From init: the listener for refused system calls.
    Refusals,
    /// From init: all done but the exec.
    Executing,
    /// From init: the step with this index failed.
    Failed { step: u32, errno: i32 },
    /// On the lifeline, to init: send this signal to the agent's process group.
    Signal(i32),
    /// On the lifeline, from init: how the agent ended, as wait(2) tells it.
    Ended(i32),
}

impl Message {
    fn encode(self) -> [u8; 12] {
        let (kind, first, second) = match self {
            Self::Plan => (1, 0, 0),
            Self::Entered => (2, 0, 0),
            Self::Go => (3, 0, 0),
            Self::Listening { step } => (4, step, 0),
            Self::Terminal => (5, 0, 0),
            Self::Refusals => (6, 0, 0),
            Self::Executing => (7, 0, 0),
            Self::Failed { step, errno } => (8, step, errno),
            Self::Signal(signal) => (9, 0, signal),
            Self::Ended(status) => (10, 0, status),
        };
        let mut bytes = [0; 12];
        bytes[0..4].copy_from_slice(&u32::to_le_bytes(kind));
        bytes[4..8].copy_from_slice(&first.to_le_bytes());
        bytes[8..12].copy_from_slice(&second.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<4>() else {
            return None;
        };
        let [kind, first, second] = *numbers else {
            return None;
        };
        let step = u32::from_le_bytes(first);
        let number = i32::from_le_bytes(second);
        Some(match u32::from_le_bytes(kind) {
            1 => Self::Plan,
            2 => Self::Entered,
            3 => Self::Go,
            4 => Self::Listening { step },
            5 => Self::Terminal,
            6 => Self::Refusals,
            7 => Self::Executing,
            8 => Self::Failed {
                step,
                errno: number,
            },
            9 => Self::Signal(number),
            10 => Self::Ended(number),
            _ => return None,
        })
    }
}

/// A connected pair; both ends are closed on exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one message with its descriptors.
///
/// # Errors
/// `EPIPE` when the other side is gone; never raises `SIGPIPE`.
pub(crate) fn send(
    socket: impl AsFd,
    message: Message,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = message.encode();
    let sent = sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives one message, or nothing when the other side has closed.
///
/// # Errors
/// `InvalidData` for a message that is none of ours.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 13];
    let received = loop {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match recvmsg(
            &socket,
            &mut buffers,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            // The other side died with a message of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = bytes.get(..received.bytes).and_then(Message::decode);
    message
        .map(|message| Some((message, descriptors)))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (a, b) = pair().unwrap();
        let failed = Message::Failed { step: 7, errno: -3 };
        send(&a, failed, &[a.as_fd(), b.as_fd()]).unwrap();
        let (message, descriptors) = receive(&b).unwrap().unwrap();
        assert_eq!(message, failed);
        assert_eq!(descriptors.len(), 2);
    }

    #[test]
    fn a_closed_socket_is_the_end_and_not_an_error() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert!(receive(&b).unwrap().is_none());
        assert!(send(&b, Message::Go, &[]).is_err());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&b"x"[..], &[0; 12], &[0; 13], &[255; 12]] {
            let (a, b) = pair().unwrap();
            rustix::net::send(&a, bytes, SendFlags::empty()).unwrap();
            assert_eq!(receive(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
