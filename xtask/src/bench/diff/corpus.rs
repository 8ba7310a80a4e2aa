//! Pairs of every size: libraries that crates carry, at several levels of optimisation, as often as a size takes, in one
//! DLL; and public Windows wheels, which have no PDB.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::super::accuracy::{self, Release};
use crate::{command, root, say, tools};

/// Libraries of the old side and of the new one.
const LIBRARIES: [[Release; 2]; 3] = [
    [("libsqlite3-sys", "0.28.0", "3.45", "sqlite3"), ("libsqlite3-sys", "0.30.1", "3.46", "sqlite3")],
    [("lua-src", "546.0.2", "5.4.6", "lua-5.4.6"), ("lua-src", "547.0.0", "5.4.7", "lua-5.4.7")],
    [("zstd-sys", "2.0.12", "1.5.6", "zstd/lib"), ("zstd-sys", "2.0.15", "1.5.7", "zstd/lib")],
];
const LEVELS: [&str; 4] = ["-O2", "-O1", "-O3", "-Os"];

/// The wheel whose largest DLL is compared.
const WHEEL: (&str, [&str; 2], &str) = ("pyarrow", ["18.0.0", "18.1.0"], "pyarrow/arrow.dll");

/// Two images.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What the table calls it.
    pub name: String,
    /// The earlier image.
    pub old: PathBuf,
    /// The later image.
    pub new: PathBuf,
    /// True if it is one of a series that differs in size alone.
    pub series: bool,
}

fn folder() -> PathBuf {
    root::cache().join("difference")
}

/// The pair of a public wheel.
///
/// # Errors
/// If it cannot be had.
pub fn wheel() -> Result<Pair> {
    let (package, versions, member) = WHEEL;
    let get = |version: &str| -> Result<PathBuf> {
        let at = folder().join("wheels").join(format!("{package}-{version}"));
        let image = at.join(Path::new(member).file_name().unwrap_or_default());
        if image.is_file() {
            return Ok(image);
        }
        fs::create_dir_all(&at)?;
        let mut pip = command::at(&at, "python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        pip.args(["--only-binary=:all:", "--platform", "win_amd64", "--python-version", "3.12"]);
        command::quiet(pip.args(["--implementation", "cp", &format!("{package}=={version}")]))?;
        let wheel = fs::read_dir(&at)?.filter_map(Result::ok).map(|e| e.path());
        let wheel = wheel.into_iter().find(|p| p.extension().is_some_and(|e| e == "whl"));
        let wheel = wheel.with_context(|| format!("{package} {version} brought no wheel"))?;
        let unpack =
            "import sys, zipfile; open(sys.argv[3], 'wb').write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";
        command::quiet(command::at(&at, "python3").args(["-c", unpack]).arg(&wheel).arg(member).arg(&image))?;
        fs::remove_file(wheel)?;
        Ok(image)
    };
    let name = format!("{package} {} to {}", versions[0], versions[1]);
    Ok(Pair { name, old: get(versions[0])?, new: get(versions[1])?, series: false })
}

/// A pair whose images hold all libraries at all levels `copies` times; no copy means one library at one level.
///
/// # Errors
/// If sources cannot be had, or do not compile.
pub fn linked(copies: usize) -> Result<Pair> {
    let side = |n: usize| -> Result<PathBuf> {
        let at = folder().join(format!("linked-{copies}")).join(["old", "new"][n]);
        let image = at.join("image.dll");
        if image.is_file() && image.with_extension("pdb").is_file() {
            return Ok(image);
        }
        tools::need(tools::FIXTURES)?;
        tools::need(&[("llvm-nm-19", "llvm-19"), ("llvm-objcopy-19", "llvm-19")])?;
        fs::create_dir_all(&at)?;
        let mut objects = Vec::new();
        if copies == 0 {
            objects.extend(compiled(LIBRARIES[0][n], LEVELS[0])?);
        }
        // Each copy has names of its own, for else the linker could hold but one of them.
        let scratch = tempfile::tempdir_in(&at)?;
        for copy in 0..copies {
            for level in LEVELS {
                for library in LIBRARIES {
                    let files = compiled(library[n], level)?;
                    objects.extend(renamed(&files, &format!("{}{copy}_", &level[1..]), scratch.path())?);
                }
            }
        }
        say::note(&format!("{} objects are linked into {}, once", objects.len(), image.display()));
        let list = scratch.path().join("objects.txt");
        let lines: Vec<String> = objects.iter().map(|o| format!("\"{}\"", o.display())).collect();
        fs::write(&list, lines.join("\n"))?;
        let mut link = command::at(&at, "clang-19");
        link.args(["--target=x86_64-w64-windows-gnu", "-shared", "-fuse-ld=lld", "-Wl,--pdb=image.pdb"]);
        link.args(["-Wl,--no-insert-timestamp", "-Wl,--exclude-all-symbols", "-o", "image.dll"]);
        command::quiet(link.arg(format!("@{}", list.display())))?;
        Ok(image)
    };
    Ok(Pair { name: format!("libraries x{copies}"), old: side(0)?, new: side(1)?, series: true })
}

/// The C files of a library that go into a DLL.
fn files(sources: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    // SQLite and Lua have one folder, zstd some.
    for part in ["", "common", "compress", "decompress", "dictBuilder"] {
        let part = sources.join(part);
        if !part.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&part)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".c") && !matches!(name.as_str(), "lua.c" | "luac.c" | "wasm32-wasi-vfs.c") {
                out.push(path);
            }
        }
    }
    out.sort();
    ensure!(!out.is_empty(), "{} has no C files", sources.display());
    Ok(out)
}

/// The objects of a library, compiled once.
fn compiled(release: Release, level: &str) -> Result<Vec<PathBuf>> {
    let sources = accuracy::sources(release)?;
    let at = folder().join("objects").join(format!("{}-{}{level}", release.0, release.2));
    fs::create_dir_all(&at)?;
    let mut out = Vec::new();
    for file in files(&sources)? {
        let object = at.join(file.with_extension("o").file_name().unwrap_or_default());
        if !object.is_file() {
            let mut compile = command::at(&sources, "clang-19");
            compile.args(["--target=x86_64-w64-windows-gnu", level, "-gcodeview", "-g", "-w", "-c"]);
            compile.args(["-DZSTD_DISABLE_ASM", "-DXXH_NAMESPACE=ZSTD_"]);
            command::quiet(compile.arg(&file).arg("-o").arg(&object))?;
        }
        out.push(object);
    }
    Ok(out)
}

/// Copies of objects whose external names begin with `prefix`.
fn renamed(files: &[PathBuf], prefix: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut nm = command::at(folder, "llvm-nm-19");
    nm.args(["--defined-only", "--extern-only", "--format=just-symbols"]);
    let listed = command::quiet(nm.args(files))?;
    let mut names = BTreeMap::new();
    for name in listed.lines().map(str::trim).filter(|n| !n.is_empty() && !n.ends_with(':')) {
        names.insert(name, format!("{prefix}{name}"));
    }
    let list = folder.join(format!("{prefix}names.txt"));
    let lines: Vec<String> = names.iter().map(|(old, new)| format!("{old} {new}")).collect();
    fs::write(&list, lines.join("\n"))?;
    let mut out = Vec::new();
    for file in files {
        let parent = file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        // Without the release in it: the name says to which module of the other image it belongs.
        let library = parent.split('-').next().unwrap_or_default();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let to = folder.join(format!("{prefix}{library}_{name}"));
        let mut copy = command::at(folder, "llvm-objcopy-19");
        command::quiet(copy.arg(format!("--redefine-syms={}", list.display())).arg(file).arg(&to))?;
        out.push(to);
    }
    Ok(out)
}
