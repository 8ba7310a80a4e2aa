//! Start a program with patches applied before its code runs.

use std::os::windows::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::sys::{self, Handle, access};
use super::{Access, LiveProcess};
use crate::apply::{Applied, ApplyOptions, apply};
use crate::error::ApplyError;
use crate::identity::find_base;
use crate::memory::MappedImage;
use crate::patch::PatchFile;
use crate::space::{AddressSpace, Protection, SpaceError};

/// CREATE_SUSPENDED.
const SUSPENDED: u32 = 4;
/// `jmp` to itself.
const SPIN: [u8; 2] = [0xeb, 0xfe];
/// How long the loader may take.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Told what came of a patch: its index, the process id, the outcome.
pub type Told<'a> = &'a dyn Fn(usize, u32, Result<&Applied, &ApplyError>);

/// How to run.
pub struct RunOptions<'a> {
    /// How to apply.
    pub apply: ApplyOptions<'a>,
    /// How often to look for a DLL that is not loaded yet.
    pub poll: Duration,
    /// Told what came of a patch as soon as it is known.
    pub told: Told<'a>,
}

/// What became of it.
#[derive(Debug)]
pub struct RunReport {
    /// The program's own exit code.
    pub exit_code: i32,
    /// For each patch, in the order given: applied, or `None` if its image was never loaded.
    pub applied: Vec<Option<Applied>>,
}

/// Why a program was not run. It has been ended if it had been started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A patch could not be applied.
    #[error("patch {index}: {source}")]
    Apply {
        /// Index of the patch, from 0.
        index: usize,
        /// Why.
        source: ApplyError,
    },
    /// The process could not be prepared.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The image of the program could not be read.
    #[error("the program's image: {0}")]
    Image(String),
}

/// Start `command` with `patches`.
///
/// The program is started suspended and its entry point replaced by a jump to itself, so that the loader does its work
/// and the program's own code does not begin. Then the patches are applied whose images are loaded by now, the entry
/// point is restored, and the program begins. It never runs under a debugger, which would change its heap and what it is
/// told. What has run by then: TLS callbacks and the DllMain of DLLs that the program is linked with, and of patched DLLs that
/// lie beside the program, which are loaded at this moment. Other DLLs are patched soon after they appear.
pub fn run(command: &mut Command, patches: &[PatchFile], options: &RunOptions<'_>) -> Result<RunReport, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    sys::leave_interrupts_to_child();
    let mut child = command.creation_flags(SUSPENDED).spawn().map_err(|source| RunError::Start { program, source })?;
    let mut applied: Vec<Option<Applied>> = vec![None; patches.len()];
    let folder =
        std::path::Path::new(command.get_program()).parent().map(std::path::Path::to_owned).unwrap_or_default();
    let result = start(child.id(), &folder, patches, options, &mut applied);
    if let Err(error) = result {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error);
    }
    let waited = wait(&mut child, patches, options, &mut applied);
    if waited.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|source| RunError::Start { program: "the program's end".into(), source })?;
    waited?;
    Ok(RunReport { exit_code: status.code().unwrap_or(-1), applied })
}

fn write_code(space: &mut LiveProcess, address: u64, bytes: &[u8]) -> Result<(), SpaceError> {
    let before = space.protect(address, bytes.len() as u64, Protection::ReadWrite)?;
    let written = space.write(address, bytes);
    for (address, size, protection) in before {
        space.protect(address, size, protection)?;
    }
    written?;
    space.flush(address, bytes.len() as u64)
}

fn start(
    pid: u32,
    folder: &std::path::Path,
    patches: &[PatchFile],
    options: &RunOptions<'_>,
    applied: &mut [Option<Applied>],
) -> Result<(), RunError> {
    let mut space = LiveProcess::open(pid, Access::Change)?;
    let block = sys::process_block(&space.process)?;
    let mut base = [0; 8];
    space.read(block + 0x10, &mut base)?;
    let base = u64::from_le_bytes(base);
    let image = MappedImage::read(&space, base).map_err(|error| RunError::Image(error.to_string()))?;
    if image.headers.entry_point == 0 {
        return Err(RunError::Image("it has no entry point".into()));
    }
    let entry = base + image.headers.entry_point as u64;
    let threads = sys::threads_of(pid)?;
    let [main] = threads.as_slice() else {
        return Err(RunError::Image(format!("{} threads before the start", threads.len())));
    };
    let main = sys::open_thread(*main, access::THREAD)?;

    let mut original = [0; 2];
    space.read(entry, &mut original)?;
    write_code(&mut space, entry, &SPIN)?;
    sys::resume_thread(&main)?;
    if !reach_entry(&space, &main, entry)? {
        // It ended while it was being loaded: its exit code says why.
        return Ok(());
    }
    // The main thread is suspended at the entry.
    write_code(&mut space, entry, &original)?;
    for (index, patch) in patches.iter().enumerate() {
        apply_if_loaded(&mut space, index, patch, options, applied)?;
        // A DLL beside the program that it loads by itself later would run unpatched until it is noticed. It is loaded now;
        // the program's own call then only counts one more user of it.
        let dll = &patch.graft().base.file_name;
        if applied[index].is_none() && folder.join(dll).is_file() {
            // No DLL has this export: the call is for the loading alone.
            let _ = space.import(dll, "?hotgraft_loads_it@@");
            apply_if_loaded(&mut space, index, patch, options, applied)?;
        }
    }
    drop(space);
    sys::resume_thread(&main)?;
    Ok(())
}

/// Wait until the main thread has come to the entry, and suspend it there; false if the process ended.
fn reach_entry(space: &LiveProcess, main: &Handle, entry: u64) -> Result<bool, RunError> {
    let started = std::time::Instant::now();
    let mut wait = 1;
    loop {
        if sys::wait(&[&space.process], wait).is_some() {
            return Ok(false);
        }
        sys::suspend_thread(main)?;
        if sys::instruction_pointer(main)? == entry {
            return Ok(true);
        }
        sys::resume_thread(main)?;
        if started.elapsed() > START_LIMIT {
            return Err(RunError::Image(format!("not loaded within {} s", START_LIMIT.as_secs())));
        }
        wait = (wait + 1).min(20);
    }
}

fn apply_if_loaded(
    space: &mut LiveProcess,
    index: usize,
    patch: &PatchFile,
    options: &RunOptions<'_>,
    applied: &mut [Option<Applied>],
) -> Result<(), RunError> {
    let base = match find_base(space, patch.graft()) {
        Ok(base) => base,
        Err(ApplyError::NoBase { .. }) => return Ok(()),
        Err(source) => {
            (options.told)(index, space.pid(), Err(&source));
            return Err(RunError::Apply { index, source });
        }
    };
    let outcome = apply(space, base, patch, &options.apply);
    (options.told)(index, space.pid(), outcome.as_ref());
    applied[index] = Some(outcome.map_err(|source| RunError::Apply { index, source })?);
    Ok(())
}

fn wait(
    child: &mut std::process::Child,
    patches: &[PatchFile],
    options: &RunOptions<'_>,
    applied: &mut [Option<Applied>],
) -> Result<(), RunError> {
    while applied.iter().any(Option::is_none) {
        match child.try_wait() {
            Ok(None) => {}
            _ => return Ok(()),
        }
        std::thread::sleep(options.poll);
        let Ok(mut space) = LiveProcess::open(child.id(), Access::Change) else {
            continue;
        };
        for (index, patch) in patches.iter().enumerate() {
            if applied[index].is_none() && find_base(&space, patch.graft()).is_ok() {
                apply_if_loaded(&mut space, index, patch, options, applied)?;
            }
        }
    }
    Ok(())
}
