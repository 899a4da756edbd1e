//! Whatever arrives on the control channel, however it is cut, it becomes messages or an error; a message
//! that was understood means the same after it was written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nemoclaw_egress::codec::{self, Lines};
use nemoclaw_egress::{FromWorker, ToWorker};

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let mut lines = Lines::default();
    for piece in bytes.chunks(usize::from(size).max(1)) {
        lines.push(piece);
        loop {
            match lines.next_line() {
                Ok(Some(line)) => read(&line),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let _ = lines.finish();
});

fn read(line: &[u8]) {
    if let Ok(message) = codec::decode::<ToWorker>(line)
        && let Ok(again) = codec::encode(&message)
    {
        assert_eq!(codec::decode::<ToWorker>(&again).ok(), Some(message));
    }
    if let Ok(message) = codec::decode::<FromWorker>(line)
        && let Ok(again) = codec::encode(&message)
    {
        assert_eq!(codec::decode::<FromWorker>(&again).ok(), Some(message));
    }
}
