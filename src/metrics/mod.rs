//! What is counted, where it is kept, and how it is shown.
//!
//! [`scoreboard`] is the shared memory that workers write; [`render`] is the one table of metrics that
//! turns it into Prometheus text. A counter belongs to a slot, not to the process that uses it: it goes on where the last
//! worker of that slot left it, so nothing goes backwards when a worker dies.

pub mod render;
pub mod scoreboard;

pub use scoreboard::{Reject, Scoreboard, Slot, State};
