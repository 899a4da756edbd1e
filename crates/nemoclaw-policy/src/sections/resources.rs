//! `resources`: how much of the machine the agent may use.

use std::time::Duration;

use serde::Serialize;

use super::quantity::{duration, milli, size};
use crate::reader::Reader;
use crate::yaml::Node;

/// The least memory in which a program can start, in bytes.
const LEAST_MEMORY: u64 = 1 << 20;

/// Thousandths of one CPU: 2000 is two CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MilliCpus(pub u32);

/// How fast the agent may read and write devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub struct IoLimits {
    /// Bytes read in a second.
    pub read_bytes_per_second: Option<u64>,
    /// Bytes written in a second.
    pub write_bytes_per_second: Option<u64>,
    /// Reads in a second.
    pub read_operations_per_second: Option<u64>,
    /// Writes in a second.
    pub write_operations_per_second: Option<u64>,
}

/// How much of the machine the agent may use; `None` where the policy is silent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
pub struct Resources {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Swap besides the memory, in bytes; 0 is none.
    pub swap: Option<u64>,
    /// CPU time per time.
    pub cpus: Option<MilliCpus>,
    /// Processes and threads at one time.
    pub pids: Option<u64>,
    /// The size of the private `/tmp`, in bytes.
    pub disk: Option<u64>,
    /// Reading and writing devices.
    pub io: Option<IoLimits>,
    /// How long the agent may run.
    pub wall_time: Option<Duration>,
    /// Open files of one process.
    pub open_files: Option<u64>,
}

impl Resources {
    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node) -> Self {
        const KNOWN: [&str; 8] = [
            "memory",
            "swap",
            "cpus",
            "pids",
            "disk",
            "io",
            "wall_time",
            "open_files",
        ];
        let mut resources = Self::default();
        let Some(fields) = reader.fields(node, "`resources`", &KNOWN, &["gpu"]) else {
            return resources;
        };
        let field = |word| fields.get(word);
        resources.memory =
            field("memory").and_then(|n| size(reader, n, "`resources.memory`", LEAST_MEMORY));
        resources.swap = field("swap").and_then(|n| size(reader, n, "`resources.swap`", 0));
        resources.cpus = field("cpus")
            .and_then(|n| milli(reader, n, "`resources.cpus`"))
            .map(MilliCpus);
        resources.pids = field("pids").and_then(|n| reader.number(n, "`resources.pids`", 1));
        resources.disk = field("disk").and_then(|n| size(reader, n, "`resources.disk`", 1));
        resources.io = field("io").and_then(|n| IoLimits::read(reader, n));
        resources.wall_time =
            field("wall_time").and_then(|n| duration(reader, n, "`resources.wall_time`"));
        resources.open_files =
            field("open_files").and_then(|n| reader.number(n, "`resources.open_files`", 16));
        resources
    }
}

impl IoLimits {
    fn read(reader: &mut Reader<'_>, node: &Node) -> Option<Self> {
        const KNOWN: [&str; 4] = [
            "read_bytes_per_second",
            "write_bytes_per_second",
            "read_operations_per_second",
            "write_operations_per_second",
        ];
        let fields = reader.fields(node, "`resources.io`", &KNOWN, &[])?;
        let [read_bytes, write_bytes, reads, writes] = KNOWN.map(|word| fields.get(word));
        let limits = Self {
            read_bytes_per_second: read_bytes
                .and_then(|n| size(reader, n, "`read_bytes_per_second`", 1)),
            write_bytes_per_second: write_bytes
                .and_then(|n| size(reader, n, "`write_bytes_per_second`", 1)),
            read_operations_per_second: reads
                .and_then(|n| reader.number(n, "`read_operations_per_second`", 1)),
            write_operations_per_second: writes
                .and_then(|n| reader.number(n, "`write_operations_per_second`", 1)),
        };
        Some(limits)
    }
}
