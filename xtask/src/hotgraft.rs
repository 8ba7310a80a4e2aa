//! The `hotgraft` command as built here: the one for this machine, and the Windows one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;
use crate::{root, tools};

/// The Rust target of the Windows build.
pub const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// How to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// Quick to run.
    Release,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// The command for this machine.
#[derive(Clone, Debug)]
pub struct Hotgraft {
    /// The executable.
    pub path: PathBuf,
}

impl Hotgraft {
    /// Builds it.
    ///
    /// # Errors
    /// If it does not build.
    pub fn build(profile: Profile) -> Result<Self> {
        cargo_build(profile, None)?;
        Ok(Self { path: target_folder().join(profile.folder()).join("hotgraft") })
    }

    /// A command line of it, still without arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("NO_COLOR", "1");
        command
    }
}

/// Builds the Windows command into a folder that also has the DLL which older Wine releases lack.
///
/// # Errors
/// If either does not build.
pub fn build_for_windows(profile: Profile) -> Result<PathBuf> {
    cargo_build(profile, Some(WINDOWS))?;
    let folder = target_folder().join("wine");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let built = target_folder().join(WINDOWS).join(profile.folder()).join("hotgraft.exe");
    let path = folder.join("hotgraft.exe");
    fs::copy(&built, &path).with_context(|| format!("cannot copy {}", built.display()))?;
    build_shim(&folder)?;
    Ok(path)
}

/// Builds the agent for Windows; returns the DLL and its import library.
///
/// # Errors
/// If it does not build.
pub fn build_agent(profile: Profile) -> Result<[PathBuf; 2]> {
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--locked", "--package", "hotgraft-agent", "--target", WINDOWS]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    command::loud(&mut cargo)?;
    let folder = target_folder().join(WINDOWS).join(profile.folder());
    Ok([folder.join("hotgraft_agent.dll"), folder.join("libhotgraft_agent.dll.a")])
}

/// `bcryptprimitives.dll` for Wine releases without it: Rust's standard library imports its one function.
fn build_shim(folder: &Path) -> Result<()> {
    let mut compile = Command::new(tools::MINGW_GCC);
    compile
        .args(["-O2", "-Wall", "-Werror", "-s", "-shared", "-nostdlib", "-Wl,-e,0", "-o"])
        .arg(folder.join("bcryptprimitives.dll"))
        .arg(root::repository().join("testdata/wine/bcryptprimitives.c"))
        .args(["-ladvapi32", "-lkernel32"]);
    command::quiet(&mut compile)?;
    Ok(())
}

fn cargo_build(profile: Profile, target: Option<&str>) -> Result<()> {
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--locked", "--package", "hotgraft", "--bin", "hotgraft"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    if let Some(target) = target {
        cargo.args(["--target", target]);
    }
    command::loud(&mut cargo)
}

/// Cargo, run in the repository.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root::repository());
    cargo
}

/// Rustup, free of the toolchain that runs this.
pub fn rustup() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.current_dir(root::repository()).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    rustup
}

/// Where cargo builds to.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root::repository().join("target"), PathBuf::from)
}

/// The document in `text`.
///
/// # Errors
/// If it is not JSON, or not of this schema.
pub fn document(text: &str, schema: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text).context("the output is not JSON")?;
    let named = value["schema"].as_str().unwrap_or("missing");
    anyhow::ensure!(named == schema, "the schema is {named}, not {schema}");
    Ok(value)
}

/// The strings under `key` in each element of an array.
pub fn strings<'a>(array: &'a Value, key: &'a str) -> impl Iterator<Item = &'a str> {
    array.as_array().into_iter().flatten().filter_map(move |one| one[key].as_str())
}
