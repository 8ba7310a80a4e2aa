//! Who we are, and the event log of the system: for records of what was attempted.

use super::sys;

/// How an event is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// As wanted.
    Information,
    /// Refused.
    Warning,
    /// Failed.
    Error,
}

/// Name of the user whose rights this process has.
pub fn user() -> Option<String> {
    sys::user_name()
}

/// Name of this machine.
pub fn host() -> Option<String> {
    sys::host_name()
}

/// Write an event of the source `hotgraft` to the log of the system. False where there is none that takes it.
pub fn report(kind: EventKind, text: &str) -> bool {
    let raw = match kind {
        EventKind::Error => 1,
        EventKind::Warning => 2,
        EventKind::Information => 4,
    };
    sys::report_event(raw, text)
}
