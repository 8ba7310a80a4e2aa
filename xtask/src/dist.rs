//! `cargo xtask dist`: archives to hand out, the same bytes from the same sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::hotgraft::{self, Profile};
use crate::{command, root, say, tools};

/// Builds `target/dist/hotgraft-VERSION-TARGET.tar.gz` for Linux and Windows, and `SHA256SUMS`.
///
/// # Errors
/// If something does not build.
pub fn run() -> Result<()> {
    tools::need(tools::WINDOWS)?;
    let out = hotgraft::target_folder().join("dist");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    let version = env!("CARGO_PKG_VERSION");
    let mut sums = String::new();
    let linux = hotgraft::Hotgraft::build(Profile::Release)?.path;
    let windows = hotgraft::build_for_windows(Profile::Release)?;
    for (target, program, strip) in
        [("x86_64-unknown-linux-gnu", &linux, "strip"), (hotgraft::WINDOWS, &windows, "x86_64-w64-mingw32-strip")]
    {
        let name = format!("hotgraft-{version}-{target}");
        let folder = out.join(&name);
        fs::create_dir_all(&folder)?;
        let copy = folder.join(program.file_name().context("no file name")?);
        fs::copy(program, &copy)?;
        command::quiet(Command::new(strip).arg(&copy))?;
        for text in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
            fs::copy(root::repository().join(text), folder.join(text))?;
        }
        let archive = pack(&out, &name)?;
        let digest = Sha256::digest(fs::read(&archive)?);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        sums.push_str(&format!("{hex}  {name}.tar.gz\n"));
        fs::remove_dir_all(&folder)?;
    }
    fs::write(out.join("SHA256SUMS"), &sums)?;
    say::line(sums.trim_end());
    say::done(&format!("archives in {}", out.display()));
    Ok(())
}

/// Packs a folder without owner, clock or order of the file system.
fn pack(out: &Path, name: &str) -> Result<PathBuf> {
    let archive = out.join(format!("{name}.tar.gz"));
    let mut tar = command::at(out, "tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--use-compress-program"]);
    tar.args(["gzip -n -9", "-cf"]).arg(&archive).arg(name);
    command::quiet(&mut tar)?;
    Ok(archive)
}
