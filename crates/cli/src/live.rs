//! `run`, `apply`, `rollback`, `status` and `watch`: on live processes, where there are any.

#[cfg(any(windows, test))]
mod audit;
mod catalog;
#[cfg(windows)]
mod watch;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use watch::watch;
#[cfg(windows)]
pub use windows::{apply, rollback, run, status, status_of_image};

#[cfg(not(windows))]
pub use elsewhere::{apply, rollback, run, status, watch};

#[cfg(not(windows))]
mod elsewhere {
    use crate::args::{ApplyArgs, RollbackArgs, RunArgs, StatusArgs, WatchArgs};
    use crate::output::{self, Exit, Stop, Terminal};
    use anyhow::{Context, Result};
    use hotgraft_engine::PatchFile;
    use std::path::Path;

    fn no_processes(command: &str) -> anyhow::Error {
        Stop::failed(
            format!("`hotgraft {command}` works on Windows processes, and this is not the Windows build"),
            "use hotgraft.exe on the machine that runs the process; with Wine: wine64 hotgraft.exe ...",
        )
    }

    fn readable(path: &Path) -> Result<()> {
        PatchFile::parse(&output::read(path)?).with_context(|| path.display().to_string())?;
        crate::trust::provenance_beside(path)?;
        Ok(())
    }

    /// Run the command.
    pub fn run(args: &RunArgs, _: &Terminal) -> Result<Exit> {
        args.patch.iter().try_for_each(|p| readable(p))?;
        crate::trust::policy(&args.trust)?;
        Err(no_processes("run"))
    }

    /// Run the command.
    pub fn apply(args: &ApplyArgs, _: &Terminal) -> Result<Exit> {
        readable(&args.patch)?;
        crate::trust::policy(&args.trust)?;
        Err(no_processes("apply"))
    }

    /// Run the command.
    pub fn rollback(args: &RollbackArgs, _: &Terminal) -> Result<Exit> {
        args.patch.iter().try_for_each(|p| readable(p))?;
        Err(no_processes("rollback"))
    }

    /// Run the command.
    pub fn status(_: &StatusArgs, _: &Terminal) -> Result<Exit> {
        Err(no_processes("status"))
    }

    /// Run the command.
    pub fn watch(args: &WatchArgs, _: &Terminal) -> Result<Exit> {
        crate::trust::policy(&args.trust)?;
        super::catalog::Patches::new(args).read()?;
        Err(no_processes("watch"))
    }
}
