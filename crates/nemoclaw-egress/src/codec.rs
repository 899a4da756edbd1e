//! One JSON object a line, with a bound: how messages become bytes and back.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// The longest message in bytes, its line break included.
pub const MOST_BYTES: usize = 64 * 1024;

/// Why bytes are not a message, or a message cannot become bytes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// No line break within [`MOST_BYTES`].
    #[error("a message on the control channel is longer than {MOST_BYTES} bytes")]
    TooLong,
    /// The channel closed within a message.
    #[error("the control channel closed in the middle of a message")]
    CutOff,
    /// Not one of the messages of this direction.
    #[error("a message on the control channel could not be read")]
    Malformed(#[source] serde_json::Error),
}

/// One message as its line. Wiped when dropped, because a configuration holds a key.
///
/// # Errors
/// [`CodecError::TooLong`] when the line would exceed [`MOST_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> Result<Zeroizing<Vec<u8>>, CodecError> {
    let mut line = Zeroizing::new(serde_json::to_vec(message).map_err(CodecError::Malformed)?);
    line.push(b'\n');
    if line.len() > MOST_BYTES {
        return Err(CodecError::TooLong);
    }
    Ok(line)
}

/// The message that one line (without its line break) holds.
///
/// # Errors
/// [`CodecError::Malformed`] for anything but exactly one known message: an unknown message or field,
/// a missing field, bytes after it.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(line).map_err(CodecError::Malformed)
}

/// Collects bytes as they arrive and gives them back line by line.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Zeroizing<Vec<u8>>,
    searched: usize,
}

impl Lines {
    /// Adds what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its line break; `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] when what is there exceeds [`MOST_BYTES`] without a line break.
    pub fn next_line(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, CodecError> {
        let fresh = self.buffer.get(self.searched..).unwrap_or_default();
        match fresh.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let end = self.searched + at;
                if end >= MOST_BYTES {
                    return Err(CodecError::TooLong);
                }
                let line = Zeroizing::new(self.buffer.drain(..=end).take(end).collect());
                self.searched = 0;
                Ok(Some(line))
            }
            None if self.buffer.len() >= MOST_BYTES => Err(CodecError::TooLong),
            None => {
                self.searched = self.buffer.len();
                Ok(None)
            }
        }
    }

    /// Says whether the channel may close here: between messages.
    ///
    /// # Errors
    /// [`CodecError::CutOff`] when part of a message has arrived.
    pub fn finish(&self) -> Result<(), CodecError> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            Err(CodecError::CutOff)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Acknowledge, FromWorker, ToWorker};

    #[test]
    fn a_message_survives_the_channel_however_it_is_cut() {
        let messages = [
            ToWorker::Acknowledge(Acknowledge { id: 1 }),
            ToWorker::Acknowledge(Acknowledge { id: u64::MAX }),
        ];
        let bytes: Vec<u8> = messages
            .iter()
            .flat_map(|message| encode(message).unwrap().to_vec())
            .collect();
        for size in 1..=bytes.len() {
            let mut lines = Lines::default();
            let mut read = Vec::new();
            for piece in bytes.chunks(size) {
                lines.push(piece);
                while let Some(line) = lines.next_line().unwrap() {
                    read.push(decode::<ToWorker>(&line).unwrap());
                }
            }
            lines.finish().unwrap();
            assert_eq!(read, messages);
        }
    }

    #[test]
    fn an_unknown_message_or_field_is_an_error() {
        for line in [
            r#"{"launch":{"id":1}}"#,
            r#"{"acknowledge":{"id":1,"also":2}}"#,
            r#"{"acknowledge":{"id":-1}}"#,
            r#"{"acknowledge":{"id":1}} {"acknowledge":{"id":2}}"#,
            r#"{"acknowledge":{}}"#,
            r#"{"configure":{"agent_id":"a","listeners":["model"],"upstream":{"url":"ftp://h","key":null}}}"#,
            "",
            "\u{0}",
            "ready",
        ] {
            assert!(decode::<ToWorker>(line.as_bytes()).is_err(), "{line}");
        }
        assert_eq!(
            decode::<FromWorker>(b"\"ready\"").unwrap(),
            FromWorker::Ready
        );
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_bound() {
        let mut lines = Lines::default();
        lines.push(&vec![b' '; MOST_BYTES - 1]);
        assert!(lines.next_line().unwrap().is_none());
        lines.push(b" ");
        assert!(matches!(lines.next_line(), Err(CodecError::TooLong)));
    }

    #[test]
    fn a_message_cut_off_by_the_end_is_an_error() {
        let mut lines = Lines::default();
        lines.push(b"{\"ack");
        assert!(lines.next_line().unwrap().is_none());
        assert!(matches!(lines.finish(), Err(CodecError::CutOff)));
    }
}
