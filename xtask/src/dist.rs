//! `cargo xtask dist`: archives to hand out, the same bytes from the same sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::hotgraft::{self, Profile};
use crate::{command, root, say, tools};

const LINUX: &str = "x86_64-unknown-linux-gnu";
const SHELLS: [(&str, &str); 5] = [
    ("bash", "hotgraft.bash"),
    ("zsh", "_hotgraft"),
    ("fish", "hotgraft.fish"),
    ("powershell", "hotgraft.ps1"),
    ("elvish", "hotgraft.elv"),
];

/// Builds `target/dist/hotgraft-VERSION-TARGET.tar.gz` for Linux and Windows, and `SHA256SUMS`.
///
/// # Errors
/// If something does not build, or an archive lacks what belongs into it.
pub fn run() -> Result<()> {
    tools::need(tools::WINDOWS)?;
    let out = hotgraft::target_folder().join("dist");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    let linux = hotgraft::Hotgraft::build(Profile::Release)?.path;
    let windows = hotgraft::build_for_windows(Profile::Release)?;
    let [agent, library] = hotgraft::build_agent(Profile::Release)?;
    let shared = shared(&linux, &out)?;
    let mut sums = String::new();
    for target in [LINUX, hotgraft::WINDOWS] {
        let name = format!("hotgraft-{}-{target}", env!("CARGO_PKG_VERSION"));
        let folder = out.join(&name);
        copy_all(&shared, &folder)?;
        if target == LINUX {
            stripped("strip", &linux, &folder)?;
        } else {
            for program in [&windows, &agent] {
                stripped("x86_64-w64-mingw32-strip", program, &folder)?;
            }
            // What a service needs that patches itself.
            let agent = folder.join("agent");
            fs::create_dir_all(&agent)?;
            fs::copy(&library, agent.join("libhotgraft_agent.dll.a"))?;
            for (from, to) in [
                ("crates/agent/include/hotgraft_agent.h", "hotgraft_agent.h"),
                ("testdata/agent/service.c", "example.c"),
            ] {
                fs::copy(root::repository().join(from), agent.join(to)).with_context(|| from.to_owned())?;
            }
        }
        let archive = pack(&out, &name)?;
        complete(&archive, &name, target)?;
        let digest = Sha256::digest(fs::read(&archive)?);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        sums.push_str(&format!("{hex}  {name}.tar.gz\n"));
        fs::remove_dir_all(&folder)?;
    }
    fs::remove_dir_all(&shared)?;
    fs::write(out.join("SHA256SUMS"), &sums)?;
    say::line(sums.trim_end());
    say::done(&format!("archives in {}", out.display()));
    Ok(())
}

/// What every archive has: texts, documentation, completions, licences.
fn shared(program: &Path, out: &Path) -> Result<PathBuf> {
    let folder = out.join("shared");
    let completions = folder.join("completions");
    fs::create_dir_all(&completions)?;
    for text in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(root::repository().join(text), folder.join(text))?;
    }
    copy_all(&root::repository().join("docs"), &folder.join("docs"))?;
    for (shell, file) in SHELLS {
        let said = command::quiet(Command::new(program).args(["completions", shell]))?;
        fs::write(completions.join(file), said)?;
    }
    fs::write(folder.join("THIRD-PARTY.txt"), licences()?)?;
    Ok(folder)
}

/// The packages that the programs are built from, with their licences.
fn licences() -> Result<String> {
    let mut cargo = hotgraft::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&command::quiet(&mut cargo)?)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (packages, nodes) = (list(&metadata["packages"]), list(&metadata["resolve"]["nodes"]));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let roots = packages.iter().filter(|package| ["hotgraft", "hotgraft-agent"].contains(&&*text(&package["name"])));
    // What is needed to run, not to build or to test.
    let mut todo: Vec<String> = roots.map(|package| text(&package["id"])).collect();
    let mut used = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !used.insert(id.clone()) {
            continue;
        }
        let node = nodes.iter().find(|node| text(&node["id"]) == id);
        let needed = list(node.map_or(&Value::Null, |node| &node["deps"]));
        let kept = needed.iter().filter(|dep| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
        todo.extend(kept.map(|dep| text(&dep["pkg"])));
    }
    let mut lines: Vec<String> = packages
        .iter()
        .filter(|package| used.contains(&text(&package["id"])) && !package["source"].is_null())
        .map(|package| {
            let of = |key: &str| text(&package[key]);
            format!("{} {}: {}, {}\n", of("name"), of("version"), of("license"), of("repository"))
        })
        .collect();
    lines.sort();
    Ok(lines.concat())
}

fn stripped(strip: &str, program: &Path, folder: &Path) -> Result<()> {
    let copy = folder.join(program.file_name().context("no file name")?);
    fs::copy(program, &copy).with_context(|| program.display().to_string())?;
    command::quiet(Command::new(strip).arg("--strip-unneeded").arg(&copy))?;
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
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

/// Reads the archive again: nothing that belongs into it is missing or empty.
fn complete(archive: &Path, name: &str, target: &str) -> Result<()> {
    let mut wanted = vec!["README.md", "LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY.txt"];
    wanted.extend([
        "completions/hotgraft.bash",
        "completions/hotgraft.ps1",
        "docs/rules.md",
        "docs/schemas/status.json",
    ]);
    wanted.extend(match target {
        LINUX => &["hotgraft"][..],
        _ => &[
            "hotgraft.exe",
            "hotgraft_agent.dll",
            "agent/libhotgraft_agent.dll.a",
            "agent/hotgraft_agent.h",
            "agent/example.c",
        ],
    });
    let listed = command::quiet(Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(archive))?;
    for file in wanted {
        let path = format!("{name}/{file}");
        let line = listed.lines().find(|line| line.split_whitespace().last() == Some(&path));
        let size = line.and_then(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
        ensure!(size.is_some_and(|size| size > 0), "{}: no {file}", archive.display());
    }
    Ok(())
}
