//! Hotpatches of Windows itself: queries alone, nothing that changes anything.

use super::LiveProcess;
use super::sys::{self, HotpatchQuery};
use crate::system::{ACTIVE, PROCESS, REGISTERED, SystemHotpatching, SystemPatch, SystemState, patches};

/// STATUS_NOT_SUPPORTED, STATUS_NOT_IMPLEMENTED, STATUS_INVALID_INFO_CLASS.
const NOT_SUPPORTED: [u32; 3] = [0xc000_00bb, 0xc000_0002, 0xc000_0003];
/// STATUS_INFO_LENGTH_MISMATCH, STATUS_BUFFER_TOO_SMALL, STATUS_BUFFER_OVERFLOW.
const TOO_SMALL: [u32; 3] = [0xc000_0004, 0xc000_0023, 0x8000_0005];
/// Room for an answer: at first and at most, bytes.
const ROOM: (usize, usize) = (0x4000, 0x40_0000);

/// What the system says of hotpatches of its own on this machine.
pub fn state() -> SystemState {
    let mut answer = vec![1, 0, 0, 0, 0, 0, 0, 0];
    let hotpatching = match sys::query_hotpatches(HotpatchQuery::Enabled, &mut answer) {
        None => SystemHotpatching::NotAvailable,
        Some(0) => SystemHotpatching::On,
        Some(status) if NOT_SUPPORTED.contains(&status) => SystemHotpatching::Off,
        Some(status) => {
            let detail = Some(format!("NTSTATUS {status:#010x}"));
            return SystemState { hotpatching: SystemHotpatching::Unknown, detail, patches: None };
        }
    };
    if hotpatching != SystemHotpatching::On {
        return SystemState { hotpatching, detail: None, patches: None };
    }
    match ask(HotpatchQuery::Registered, REGISTERED, |_| ()) {
        Ok(patches) => SystemState { hotpatching, detail: None, patches: Some(patches) },
        Err(detail) => SystemState { hotpatching, detail: Some(detail), patches: None },
    }
}

impl LiveProcess {
    /// The hotpatches of Windows itself that are active in the process; `None` where the system does not tell.
    pub fn system_patches(&self) -> Option<Vec<SystemPatch>> {
        let handle = self.process.number();
        ask(HotpatchQuery::Active, ACTIVE, |question| {
            question[PROCESS..PROCESS + 8].copy_from_slice(&handle.to_le_bytes());
        })
        .ok()
    }
}

fn ask(
    query: HotpatchQuery,
    layout: crate::system::Layout,
    fill: impl Fn(&mut [u8]),
) -> Result<Vec<SystemPatch>, String> {
    let mut room = ROOM.0;
    loop {
        let mut answer = vec![0u8; room];
        answer[0] = 1;
        fill(&mut answer[..layout.size]);
        match sys::query_hotpatches(query, &mut answer) {
            None => return Err("not available here".into()),
            Some(0) => {
                let address = answer.as_ptr().addr() as u64;
                return patches(&answer, address, layout).ok_or_else(|| "its answer is of another form".into());
            }
            Some(status) if TOO_SMALL.contains(&status) && room < ROOM.1 => room *= 4,
            Some(status) => return Err(format!("NTSTATUS {status:#010x}")),
        }
    }
}
