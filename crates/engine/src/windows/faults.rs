//! Faults in front of system calls, for tests: the n-th call fails, or the process is ended there.

use std::sync::Mutex;

use crate::space::SpaceError;

/// What happens at the chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, and is not made.
    Fail,
    /// The process ends, as if it were killed.
    Kill,
}

struct Plan {
    calls: u64,
    at: Option<(u64, Fault)>,
    last: &'static str,
}

static PLAN: Mutex<Plan> = Mutex::new(Plan { calls: 0, at: None, last: "" });

/// Count from 0 again, with a fault at the given call (from 1).
pub fn plan(at: Option<(u64, Fault)>) {
    if let Ok(mut plan) = PLAN.lock() {
        *plan = Plan { calls: 0, at, last: "" };
    }
}

/// Calls since then, and the one at which the fault was (empty: it was not reached).
pub fn calls() -> (u64, &'static str) {
    PLAN.lock().map_or((0, ""), |plan| (plan.calls, plan.last))
}

pub(super) fn step(operation: &'static str) -> Result<(), SpaceError> {
    let Ok(mut plan) = PLAN.lock() else {
        return Ok(());
    };
    plan.calls += 1;
    match plan.at {
        Some((at, fault)) if at == plan.calls => {
            plan.last = operation;
            if fault == Fault::Kill {
                std::process::abort();
            }
            Err(SpaceError { operation, address: 0, size: 0, message: "made to fail by a test".into() })
        }
        _ => Ok(()),
    }
}
