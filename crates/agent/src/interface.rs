//! The exported functions. Nothing unwinds into the caller: every way out is a number.
#![allow(unsafe_code, reason = "a C interface")]

use std::ffi::{CStr, OsString, c_char};
use std::os::windows::ffi::OsStringExt;
use std::os::windows::process::CommandExt;
use std::panic::{UnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use hotgraft_engine::query;
use hotgraft_engine::windows::{Access, LiveProcess, own_path};

const OK: i32 = 0;
const FAILED: i32 = 2;
const REFUSED: i32 = 3;
const ARGUMENT: i32 = 10;
const SIZE: i32 = 11;
/// CREATE_NO_WINDOW.
const NO_WINDOW: u32 = 0x0800_0000;

fn guarded(work: impl FnOnce() -> i32 + UnwindSafe) -> i32 {
    catch_unwind(work).unwrap_or(FAILED)
}

/// # Safety
/// `text` is null or ends with a zero.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: as demanded.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

fn images() -> Result<Vec<hotgraft_engine::ImageStatus>, i32> {
    let own = LiveProcess::open(std::process::id(), Access::Query).map_err(|_| FAILED)?;
    query(&own, None).map_err(|_| FAILED)
}

/// Version of the interface.
#[unsafe(no_mangle)]
pub extern "C" fn hotgraft_agent_version() -> u32 {
    1
}

/// The patch state of this process as JSON.
///
/// # Safety
/// `size` is null or valid; `json` is null or valid for `*size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotgraft_agent_query(json: *mut c_char, size: *mut usize) -> i32 {
    guarded(|| {
        if size.is_null() {
            return ARGUMENT;
        }
        let Some(mut bytes) = images().ok().and_then(|images| serde_json::to_vec(&images).ok()) else {
            return FAILED;
        };
        bytes.push(0);
        // SAFETY: not null, so valid.
        let room = unsafe { size.replace(bytes.len()) };
        if json.is_null() || room < bytes.len() {
            return SIZE;
        }
        // SAFETY: valid for `room` bytes.
        unsafe { json.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len()) };
        OK
    })
}

/// The sequence that is active on an image.
///
/// # Safety
/// `image` is null or ends with a zero; `sequence` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotgraft_agent_active(image: *const c_char, sequence: *mut u32) -> i32 {
    guarded(|| {
        // SAFETY: as demanded.
        let (Some(image), false) = (unsafe { text(image) }, sequence.is_null()) else {
            return ARGUMENT;
        };
        let images = match images() {
            Ok(images) => images,
            Err(code) => return code,
        };
        let found = images.iter().find(|known| known.name.eq_ignore_ascii_case(image));
        // SAFETY: not null, so valid.
        unsafe { sequence.write(found.and_then(|image| image.active).unwrap_or(0)) };
        OK
    })
}

/// Apply a patch to this process.
///
/// # Safety
/// The texts are null or end with a zero; `message` is null or valid for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotgraft_agent_apply(
    patch: *const c_char,
    policy: *const c_char,
    message: *mut c_char,
    size: usize,
) -> i32 {
    guarded(|| {
        // SAFETY: as demanded.
        let (Some(patch), Some(policy)) = (unsafe { text(patch) }, unsafe { text(policy) }) else {
            return ARGUMENT;
        };
        let arguments = ["apply", "--patch", patch, "--policy", policy];
        // SAFETY: as demanded.
        unsafe { hotgraft(&arguments, message, size) }
    })
}

/// Roll back.
///
/// # Safety
/// `patch` is null or ends with a zero; `message` is null or valid for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotgraft_agent_rollback(patch: *const c_char, message: *mut c_char, size: usize) -> i32 {
    guarded(|| {
        // SAFETY: as demanded.
        let arguments = match (patch.is_null(), unsafe { text(patch) }) {
            (true, _) => vec!["rollback"],
            (false, Some(patch)) => vec!["rollback", "--patch", patch],
            (false, None) => return ARGUMENT,
        };
        // SAFETY: as demanded.
        unsafe { hotgraft(&arguments, message, size) }
    })
}

/// Run hotgraft.exe on this process.
///
/// # Safety
/// `message` is null or valid for `size` bytes.
unsafe fn hotgraft(arguments: &[&str], message: *mut c_char, size: usize) -> i32 {
    let (code, said) = match run(arguments) {
        Ok((code, said)) => (code, said),
        Err(error) => (FAILED, format!("hotgraft.exe cannot be run: {error}")),
    };
    if !message.is_null() && size > 0 {
        let mut end = said.len().min(size - 1);
        while !said.is_char_boundary(end) {
            end -= 1;
        }
        // SAFETY: `end` and the zero fit into `size` bytes.
        unsafe {
            message.copy_from_nonoverlapping(said.as_ptr().cast(), end);
            message.add(end).write(0);
        }
    }
    code
}

fn run(arguments: &[&str]) -> std::io::Result<(i32, String)> {
    // Beside this DLL and nowhere else: a search path can be somebody else's.
    let own: OsString = OsString::from_wide(&own_path(hotgraft_agent_version as *const () as u64)?);
    let program = PathBuf::from(own).with_file_name("hotgraft.exe");
    let pid = std::process::id().to_string();
    let mut command = Command::new(program);
    command.args(arguments).args(["--pid", &pid, "--color", "never"]);
    let output = command.creation_flags(NO_WINDOW).stdin(Stdio::null()).output()?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    let code = match output.status.code() {
        Some(0) => OK,
        Some(3) => REFUSED,
        _ => FAILED,
    };
    Ok((code, said))
}
