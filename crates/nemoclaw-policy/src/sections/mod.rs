//! The sections beside the three lists, one file each: the type, and how it is read.

mod audit;
mod enforcement;
mod environment;
mod identity;
mod models;
mod name;
mod privacy;
mod quantity;
mod resources;
mod workdir;

pub use audit::Audit;
pub use enforcement::{Enforcement, Level, Mechanism};
pub use environment::Environment;
pub use identity::{Identity, IdentityUser};
pub use models::{KeySource, Models, Upstream};
pub use name::{AgentName, NameError};
pub use privacy::Privacy;
pub use resources::{IoLimits, MilliCpus, Resources};
pub use workdir::{Workdir, WorkdirMode};
