//! The end of a fleet, step by step: a pause for load balancers, no more connections, the drain.

use std::time::Duration;

use super::orders::{Now, Policy};

/// For how long connections that are being made are waited for: a second after the kernel has answered a client's SYN, it does so
/// once more.
pub const HANDSHAKES: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum Stop {
    /// Still accepting until then.
    Delayed(Now),
    /// New connections are refused, and workers take those that the kernel has made; until then at the latest.
    Refusing {
        until: Now,
        quiet: bool,
    },
    Draining,
}

/// What has to be done for the next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    Refuse,
    Drain,
}

impl Stop {
    pub fn begin(now: Now, policy: &Policy) -> Self {
        Stop::Delayed(now + policy.drain_delay)
    }

    /// When the next step is due at the latest.
    pub fn deadline(&self) -> Option<Now> {
        match self {
            Stop::Delayed(until) | Stop::Refusing { until, .. } => Some(*until),
            Stop::Draining => None,
        }
    }

    /// Workers that die are still replaced.
    pub fn is_delayed(&self) -> bool {
        matches!(self, Stop::Delayed(_))
    }

    /// No connection is being made any more.
    pub fn quiet(&mut self) {
        if let Stop::Refusing { quiet, .. } = self {
            *quiet = true;
        }
    }

    /// The next step, if it is due. Workers drain, and close their listening sockets, when nobody else has one (`alone`): what waits
    /// in a socket ends with its last copy, which has to be one that somebody has just taken from.
    pub fn step(&mut self, now: Now, policy: &Policy, alone: bool) -> Option<Step> {
        match *self {
            Stop::Delayed(until) if until <= now => {
                *self = Stop::Refusing { until: now + HANDSHAKES.min(policy.drain_timeout), quiet: false };
                Some(Step::Refuse)
            }
            Stop::Refusing { until, quiet } if until <= now || quiet && alone => {
                *self = Stop::Draining;
                Some(Step::Drain)
            }
            _ => None,
        }
    }
}
