//! The pairs: releases of Lua and SQLite from the sources that their crates carry, and security fixes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{command, corpus, root, tools};

/// Two images with their PDBs beside them.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What the table calls it.
    pub name: String,
    /// The earlier image.
    pub old: PathBuf,
    /// The later image.
    pub new: PathBuf,
    /// Folders with the object files, where they tell which functions changed.
    pub objects: Option<(PathBuf, PathBuf)>,
}

/// Sources of one release: package, version of the crate, release, and the folder in the crate.
pub type Release = (&'static str, &'static str, &'static str, &'static str);

const LUA_6: Release = ("lua-src", "546.0.2", "5.4.6", "lua-5.4.6");
const LUA_7: Release = ("lua-src", "547.0.0", "5.4.7", "lua-5.4.7");
const SQLITE_45: Release = ("libsqlite3-sys", "0.28.0", "3.45", "sqlite3");
const SQLITE_46: Release = ("libsqlite3-sys", "0.30.1", "3.46", "sqlite3");
const SQLITE_50: Release = ("libsqlite3-sys", "0.35.0", "3.50", "sqlite3");

/// How a side is built: the release, the optimisation, and whether the linker is to lay it out otherwise.
type Side = (Release, &'static str, bool);

/// Builds the pairs of releases whose names are wanted.
///
/// # Errors
/// If sources cannot be had, or do not compile.
pub fn released(wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Pair>> {
    let list: [(&str, Side, Side); 6] = [
        ("Lua 5.4.6 to 5.4.7", (LUA_6, "-O2", false), (LUA_7, "-O2", false)),
        ("Lua 5.4.7 -O1 to -O2", (LUA_7, "-O1", false), (LUA_7, "-O2", false)),
        ("Lua 5.4.7 relinked", (LUA_7, "-O2", false), (LUA_7, "-O2", true)),
        ("SQLite 3.45 to 3.46", (SQLITE_45, "-O2", false), (SQLITE_46, "-O2", false)),
        ("SQLite 3.45 to 3.50", (SQLITE_45, "-O2", false), (SQLITE_50, "-O2", false)),
        ("SQLite 3.45 -O1 to -O2", (SQLITE_45, "-O1", false), (SQLITE_45, "-O2", false)),
    ];
    let list: Vec<_> = list.into_iter().filter(|(name, ..)| wanted(name)).collect();
    if !list.is_empty() {
        tools::need(tools::FIXTURES)?;
    }
    let mut out = Vec::new();
    for (name, old, new) in list {
        let same_level = old.1 == new.1;
        let (old, new) = (build(old)?, build(new)?);
        let objects = same_level.then_some((old.1, new.1));
        out.push(Pair { name: name.to_owned(), old: old.0, new: new.0, objects });
    }
    Ok(out)
}

/// Folders with the objects of one library: as usual, and with one section to a function.
///
/// # Errors
/// If sources cannot be had, or do not compile.
pub fn objects() -> Result<(PathBuf, PathBuf)> {
    let (_, sections) = build((LUA_7, "-O2", false))?;
    Ok((sections.with_file_name("plain"), sections))
}

/// The pairs of security fixes, by package.
///
/// # Errors
/// If the folder cannot be read.
pub fn fixes(folder: &Path) -> Result<BTreeMap<String, Vec<Pair>>> {
    let mut out: BTreeMap<String, Vec<Pair>> = BTreeMap::new();
    for built in corpus::built(folder)? {
        let step = built.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for image in &built.step.images {
            let (old, new) = (built.folder.join("old").join(image), built.folder.join("new").join(image));
            // Without its PDB an image has no truth.
            if old.with_extension("pdb").is_file() && new.with_extension("pdb").is_file() {
                let pair = Pair { name: format!("{step} {image}"), old, new, objects: None };
                out.entry(built.step.package.clone()).or_default().push(pair);
            }
        }
    }
    Ok(out)
}

/// The sources of a crate, from the registry through cargo.
///
/// # Errors
/// If they cannot be had.
pub fn sources((package, version, _, folder): Release) -> Result<PathBuf> {
    let project = root::cache().join("accuracy/sources").join(format!("{package}-{version}"));
    let found = project.join("vendor").join(package).join(folder);
    if found.is_dir() {
        return Ok(found);
    }
    fs::create_dir_all(project.join("src"))?;
    fs::write(project.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"sources\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n[dependencies]\n{package} = \"={version}\"\n"
    );
    fs::write(project.join("Cargo.toml"), manifest)?;
    command::quiet(command::at(&project, "cargo").args(["vendor", "--quiet"]))?;
    ensure!(found.is_dir(), "{package} {version} has no folder {folder}");
    Ok(found)
}

/// Builds one side unless it is there; returns the image and the folder of its objects.
fn build(side: Side) -> Result<(PathBuf, PathBuf)> {
    let (release, level, relinked) = side;
    let sources = sources(release)?;
    let base = root::cache().join("accuracy/built").join(format!("{}-{}{level}", release.0, release.2));
    let objects = base.join("objects");
    let plain = base.join("plain");
    let folder = base.join(if relinked { "relinked" } else { "linked" });
    let image = folder.join("image.dll");
    if image.is_file() && image.with_extension("pdb").is_file() {
        return Ok((image, objects));
    }
    fs::create_dir_all(&objects)?;
    fs::create_dir_all(&plain)?;
    fs::create_dir_all(&folder)?;
    let mut files: Vec<PathBuf> = Vec::new();
    let entries = fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))?;
    for entry in entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_program = matches!(name.as_str(), "lua.c" | "luac.c" | "wasm32-wasi-vfs.c");
        if name.ends_with(".c") && !is_program {
            files.push(entry);
        }
    }
    files.sort();
    let mut made = Vec::new();
    for file in &files {
        let object = file.with_extension("o");
        let name = object.file_name().unwrap_or_default();
        // The linker sorts sections of single functions by name, so what is linked has none; what tells the truth does.
        let both: [(&Path, &[&str]); 2] = [(&plain, &["-g"]), (&objects, &["-ffunction-sections", "-fdata-sections"])];
        for (folder, more) in both {
            if !folder.join(name).is_file() {
                let mut compile = command::at(&sources, "clang-19");
                compile.args(["--target=x86_64-w64-windows-gnu", level, "-gcodeview", "-w", "-c"]).args(more);
                compile.args(["-DLUA_BUILD_AS_DLL", "-DSQLITE_API=__declspec(dllexport)"]);
                command::quiet(compile.arg(file).arg("-o").arg(folder.join(name)))?;
            }
        }
        made.push(plain.join(name));
    }
    if relinked {
        made.reverse();
    }
    let mut link = command::at(&folder, "clang-19");
    link.args(["--target=x86_64-w64-windows-gnu", "-shared", "-fuse-ld=lld", "-Wl,--pdb=image.pdb"]);
    link.args(["-Wl,--no-insert-timestamp", "-o", "image.dll"]).args(&made);
    if relinked {
        link.arg("-Wl,--image-base=0x190000000");
    }
    command::quiet(&mut link)?;
    Ok((image, objects))
}
