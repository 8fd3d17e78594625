//! What is counted, where it is kept, and how it is shown.
//!
//! [`scoreboard`] is the shared memory that workers write; [`render`] is the one table of metrics, in Prometheus' text format or, by
//! [`openmetrics`], in OpenMetrics'. A counter belongs to a slot, not to the process that uses it: it goes on where the last
//! worker of that slot left it, so nothing goes backwards when a worker dies. [`site`] is the same for the metrics that a site has itself.

pub mod activity;
mod exemplar;
pub mod histogram;
mod openmetrics;
pub mod process;
mod reasons;
pub mod render;
pub mod report;
pub mod scoreboard;
mod seqlock;
pub mod site;
pub mod units;

pub use activity::Activity;
pub use reasons::{Lost, Reject, Restart};
pub use scoreboard::{Scoreboard, Slot, State};
pub use site::SiteMetrics;
