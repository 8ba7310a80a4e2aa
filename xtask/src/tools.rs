//! The Debian packages behind each task: installed where that is possible, else named.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{command, say};

/// A program and the Debian package that has it.
pub type Tool = (&'static str, &'static str);

/// The Wine loader, which Debian keeps out of `PATH`.
pub const WINE: &str = "/usr/lib/wine/wine64";

/// The server behind it.
pub const WINE_SERVER: &str = "/usr/lib/wine/wineserver64";

/// The mingw-w64 compilers with the thread model that clang's search for libraries comes to.
pub const MINGW_GCC: &str = "x86_64-w64-mingw32-gcc-win32";
/// As [`MINGW_GCC`], for C++.
pub const MINGW_GXX: &str = "x86_64-w64-mingw32-g++-win32";

/// To build the fixtures.
pub const FIXTURES: &[Tool] = &[
    ("clang-19", "clang-19"),
    ("ld.lld-19", "lld-19"),
    ("lld-link-19", "lld-19"),
    ("llvm-dlltool-19", "llvm-19"),
    (MINGW_GCC, "gcc-mingw-w64-x86-64-win32"),
    (MINGW_GXX, "g++-mingw-w64-x86-64-win32"),
];

/// To build and run Windows programs.
pub const WINDOWS: &[Tool] = &[
    (MINGW_GCC, "gcc-mingw-w64-x86-64-win32"),
    (MINGW_GXX, "g++-mingw-w64-x86-64-win32"),
    // Cargo's linker for the Windows target.
    ("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64-win32"),
    (WINE, "wine64"),
    (WINE_SERVER, "wine64"),
];

/// Independent readers of what hotgraft writes.
pub const READERS: &[Tool] = &[
    ("llvm-readobj-19", "llvm-19"),
    ("osslsigncode", "osslsigncode"),
    ("sbverify", "sbsigntool"),
    ("openssl", "openssl"),
    ("softhsm2-util", "softhsm2"),
    ("python3", "python3"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// To build image pairs from Debian source packages.
pub const CORPUS: &[Tool] = &[
    ("clang-19", "clang-19"),
    ("ld.lld-19", "lld-19"),
    ("llvm-ar-19", "llvm-19"),
    (MINGW_GCC, "gcc-mingw-w64-x86-64-win32"),
    (MINGW_GXX, "g++-mingw-w64-x86-64-win32"),
    ("cmake", "cmake"),
    ("ninja", "ninja-build"),
    ("dpkg-source", "dpkg-dev"),
    ("patch", "patch"),
    ("ctags", "universal-ctags"),
];

/// Makes sure that every tool is there.
///
/// # Errors
/// If one is missing and cannot be installed; the message is the `apt-get` line that would.
pub fn need(tools: &[Tool]) -> Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    let still = self::missing(tools);
    if !still.is_empty() {
        bail!("{} installed, and yet not to be found", still.join(", "));
    }
    Ok(())
}

/// Installs Debian packages.
///
/// # Errors
/// If that is not possible; the message is the `apt-get` line that would.
pub fn install(missing: &[&str]) -> Result<()> {
    let line = format!("apt-get install --no-install-recommends -y {}", missing.join(" "));
    if !command::exists("apt-get") || !is_root() {
        bail!("missing: {}. As root: {line}", missing.join(", "));
    }
    say::command(&line);
    let mut update = Command::new("apt-get");
    command::loud(update.args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--no-install-recommends", "-y", "-qq"]).args(missing);
    command::loud(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn missing(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        tools.iter().filter(|(program, _)| !command::exists(program)).map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn is_root() -> bool {
    command::quiet(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}
