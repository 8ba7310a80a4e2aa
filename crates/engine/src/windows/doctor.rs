//! Can processes of this machine, and this process, be hotpatched? What the system tells; where it does not tell (older
//! Windows, Wine), the answer is "not known".

use super::Access;
use super::sys::{self, access};
use crate::doctor::{Check, Level};
use crate::pe::MACHINE_AMD64;

/// IMAGE_FILE_MACHINE_ARM64.
const MACHINE_ARM64: u16 = 0xaa64;
/// CODEINTEGRITY_OPTION_*.
const UMCI_ENABLED: u32 = 0x4;
const HVCI_ENABLED: u32 = 0x400;
/// PROCESS_MITIGATION_POLICY.
const DYNAMIC_CODE: i32 = 2;
const FLOW_GUARD: i32 = 7;
const SIGNATURE: i32 = 8;
const SHADOW_STACK: i32 = 15;

fn unknown(key: &'static str, what: &str) -> Check {
    Check::new(key, Level::Unknown, format!("{what}: not known, the system does not tell"))
}

/// Wine answers some questions without knowing.
fn is_wine() -> bool {
    sys::has_ntdll(c"wine_get_version")
}

fn mitigation(process: &sys::Handle, policy: i32) -> Option<u32> {
    sys::mitigation(process, policy).filter(|_| !is_wine())
}

/// Judge the machine.
pub fn machine() -> Vec<Check> {
    let mut checks = Vec::new();
    let native = sys::open_process(std::process::id(), access::QUERY).and_then(|own| sys::machines(&own));
    checks.push(match native {
        Ok((_, MACHINE_AMD64)) => Check::new("machine.architecture", Level::Ok, "x86-64"),
        Ok((_, MACHINE_ARM64)) => Check::new("machine.architecture", Level::Blocks, "ARM64: processes are not patched")
            .advise("update by a restart"),
        Ok((_, other)) => Check::new(
            "machine.architecture",
            Level::Blocks,
            format!("machine {other:#06x}: processes are not patched"),
        ),
        Err(_) => unknown("machine.architecture", "architecture"),
    });
    let wine = is_wine();
    checks.push(match sys::windows_version() {
        Some((major, minor, build)) if wine => Check::new(
            "machine.windows",
            Level::Note,
            format!("Wine, which says it is Windows {major}.{minor}.{build}"),
        ),
        Some((major, minor, build)) => {
            Check::new("machine.windows", Level::Ok, format!("Windows {major}.{minor}.{build}"))
        }
        None => unknown("machine.windows", "version of Windows"),
    });
    checks.push(match sys::secure_kernel().filter(|_| !wine) {
        Some(true) => Check::new("machine.vbs", Level::Ok, "virtualization-based security runs"),
        Some(false) => Check::new("machine.vbs", Level::Note, "virtualization-based security does not run")
            .advise("hotgraft does not need it; Windows' own hotpatches do"),
        None => unknown("machine.vbs", "virtualization-based security"),
    });
    checks.push(if sys::has_ntdll(c"NtManageHotPatch") {
        Check::new("machine.hotpatch", Level::Note, "this Windows also has hotpatches of its own (NtManageHotPatch)")
            .advise("do not patch with both what belongs to Windows itself")
    } else {
        Check::new("machine.hotpatch", Level::Ok, "this system has no hotpatches of its own")
    });
    match sys::code_integrity().filter(|_| !wine) {
        Some(options) => {
            checks.push(if options & HVCI_ENABLED != 0 {
                let text = "memory integrity (HVCI) is on: it guards code of the kernel, not that of processes";
                Check::new("machine.hvci", Level::Ok, text)
            } else {
                Check::new("machine.hvci", Level::Ok, "memory integrity (HVCI) is off")
            });
            checks.push(if options & UMCI_ENABLED != 0 {
                let text = "code integrity is enforced for processes: hotgraft itself must be allowed by its policy";
                Check::new("machine.umci", Level::Note, text)
                    .advise("allow hotgraft.exe in the policy, and leave dynamic code security out for what is patched")
            } else {
                Check::new("machine.umci", Level::Ok, "code integrity is not enforced for processes")
            });
        }
        None => {
            checks.push(unknown("machine.hvci", "memory integrity (HVCI)"));
            checks.push(unknown("machine.umci", "code integrity of processes"));
        }
    }
    checks
}

/// Judge a process.
///
/// # Errors
/// If there is no such process, or nothing of it may be read.
pub fn process(pid: u32) -> super::Result<Vec<Check>> {
    // A protected process lets itself be asked for little.
    let process = sys::open_process(pid, access::QUERY).or_else(|_| sys::open_process(pid, access::ASK))?;
    let mut checks = Vec::new();
    checks.push(match sys::machines(&process) {
        Ok((MACHINE_AMD64, MACHINE_AMD64)) => Check::new("process.architecture", Level::Ok, "x86-64"),
        Ok((of_process, native)) => {
            let text =
                format!("a process of machine {of_process:#06x} on {native:#06x}: only x86-64 on x86-64 is patched");
            Check::new("process.architecture", Level::Blocks, text).advise("update by a restart")
        }
        Err(_) => unknown("process.architecture", "architecture"),
    });
    checks.push(match sys::protection_of(&process) {
        Some(0) => Check::new("process.protected", Level::Ok, "not protected"),
        Some(level) => {
            let kind = if level & 7 == 1 { "a protected process (light)" } else { "a protected process" };
            Check::new("process.protected", Level::Blocks, format!("{kind}: nobody else may change its memory"))
                .advise("update by a restart")
        }
        None => unknown("process.protected", "protection"),
    });
    checks.push(match mitigation(&process, DYNAMIC_CODE) {
        Some(flags) if flags & 1 != 0 => Check::new(
            "process.dynamic_code",
            Level::Blocks,
            "arbitrary code guard (ACG): no new code may be made in it",
        )
        .advise("leave ACG out for this program, or update by a restart"),
        Some(_) => Check::new("process.dynamic_code", Level::Ok, "new code may be made in it"),
        None => unknown("process.dynamic_code", "arbitrary code guard (ACG)"),
    });
    checks.push(match mitigation(&process, SIGNATURE) {
        Some(flags) if flags & 7 != 0 => {
            let text = "loads only DLLs of certain signers: patches are not loaded as DLLs, but their new imports are";
            Check::new("process.signature", Level::Limits, text)
                .advise("patches for it should import from loaded DLLs only")
        }
        Some(_) => Check::new("process.signature", Level::Ok, "loads DLLs of any signer"),
        None => unknown("process.signature", "signers of DLLs"),
    });
    checks.push(match mitigation(&process, FLOW_GUARD) {
        Some(flags) if flags & 1 != 0 => {
            Check::new("process.cfg", Level::Ok, "control-flow guard is on: call targets of patches are registered")
        }
        Some(_) => Check::new("process.cfg", Level::Ok, "control-flow guard is off"),
        None => unknown("process.cfg", "control-flow guard"),
    });
    checks.push(match mitigation(&process, SHADOW_STACK) {
        Some(flags) if flags & 1 != 0 => {
            Check::new("process.cet", Level::Ok, "shadow stacks are on: redirects are jumps and keep them intact")
        }
        Some(_) => Check::new("process.cet", Level::Ok, "shadow stacks are off"),
        None => unknown("process.cet", "shadow stacks (CET)"),
    });
    checks.push(match super::LiveProcess::open(pid, Access::Change) {
        Ok(_) => Check::new("process.rights", Level::Ok, "you may change its memory"),
        Err(error) => {
            let text = format!("it cannot be opened for a change: {}", error.message);
            Check::new("process.rights", Level::Blocks, text).advise("run hotgraft with the rights of its owner")
        }
    });
    Ok(checks)
}

/// What a machine's state states of the machine; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Version of Windows: major, minor, build.
    pub version: Option<(u32, u32, u32)>,
    /// It is Wine that says so.
    pub wine: bool,
    /// Virtualization-based security runs.
    pub vbs: Option<bool>,
    /// Memory integrity (HVCI) is on.
    pub hvci: Option<bool>,
}

/// Ask for them.
pub fn facts() -> Facts {
    let wine = is_wine();
    Facts {
        version: sys::windows_version(),
        wine,
        vbs: sys::secure_kernel().filter(|_| !wine),
        hvci: sys::code_integrity().filter(|_| !wine).map(|options| options & HVCI_ENABLED != 0),
    }
}
