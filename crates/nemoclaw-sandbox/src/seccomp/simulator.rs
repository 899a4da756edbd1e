//! Runs filter programs as the kernel does, for tests: the classic BPF that seccomp allows.

use super::{Architecture, bpf};

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    pub(super) fn new(architecture: Architecture, number: u32, arguments: [u64; 6]) -> Self {
        Self {
            number,
            architecture: architecture.audit_value(),
            arguments,
        }
    }

    fn word(&self, offset: u32) -> u32 {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.architecture.to_le_bytes());
        bytes.extend(0x7fff_0000_1234_u64.to_le_bytes());
        for argument in self.arguments {
            bytes.extend(argument.to_le_bytes());
        }
        let start = usize::try_from(offset).expect("offset fits");
        assert_eq!(start % 4, 0, "the kernel refuses unaligned loads");
        u32::from_le_bytes(bytes[start..start + 4].try_into().expect("four bytes"))
    }
}

/// What the program returns for the call, and after how many instructions.
pub(super) fn run(program: &[u64], call: &Call) -> (u32, usize) {
    let (mut position, mut accumulator, mut steps) = (0_usize, 0_u32, 0);
    loop {
        let instruction = bpf::unpack(program[position]);
        position += 1;
        steps += 1;
        let k = instruction.k;
        let branch = |holds: bool| {
            usize::from(if holds {
                instruction.jt
            } else {
                instruction.jf
            })
        };
        match instruction.code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => position += usize::try_from(k).expect("distance fits"),
            0x15 => position += branch(accumulator == k),
            0x25 => position += branch(accumulator > k),
            0x35 => position += branch(accumulator >= k),
            0x06 => return (k, steps),
            code => panic!(
                "instruction {code:#x} at {} is not expected in a filter",
                position - 1
            ),
        }
    }
}
