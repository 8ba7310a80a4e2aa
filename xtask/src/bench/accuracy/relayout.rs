//! The same objects linked in other ways: nothing changed, and nothing may be called changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{json, pairs};
use crate::hotgraft::Hotgraft;
use crate::{command, root, say};

/// Random orders of the objects to try.
const ORDERS: u64 = 5;

/// One way to link.
struct Layout {
    name: String,
    /// Objects with one section to a function, as folding of equal functions needs.
    sections: bool,
    /// What the linker gets on both sides, and what on the second alone.
    both: &'static str,
    more: &'static str,
    /// Seed of the order of the objects, 0 for that of their names.
    order: u64,
    /// An object that nothing refers to is added.
    unrelated: bool,
}

fn layouts() -> Vec<Layout> {
    let plain = |name: &str, more| Layout {
        name: name.to_owned(),
        sections: false,
        both: "",
        more,
        order: 0,
        unrelated: false,
    };
    let mut all = vec![
        plain("image base", "-Wl,--image-base=0x1a0000000"),
        plain("section alignment", "-Wl,--section-alignment=16384"),
        plain("file alignment", "-Wl,--file-alignment=4096"),
        plain("function padding", "-Wl,-Xlink=/functionpadmin:16"),
        Layout { unrelated: true, ..plain("unrelated object", "") },
        Layout { sections: true, both: "-Wl,--icf=none", ..plain("function sections folded", "-Wl,--icf=all") },
    ];
    all.extend((1..=ORDERS).map(|n| Layout { order: n, ..plain(&format!("object order {n}"), "") }));
    all
}

/// Compares each layout with the plain one, with PDBs.
///
/// # Errors
/// If anything is called changed, or the images cannot be built.
pub fn run(hotgraft: &Hotgraft) -> Result<()> {
    let (plain, sections) = pairs::objects()?;
    let folder = root::cache().join("accuracy/relayout");
    fs::create_dir_all(&folder)?;
    let unrelated = folder.join("unrelated.o");
    fs::write(folder.join("unrelated.c"), "int unrelated(int a) { return a * 7 + 3; }\n")?;
    let mut compile = command::at(&folder, "clang-19");
    compile.args(["--target=x86_64-w64-windows-gnu", "-O2", "-gcodeview", "-c", "unrelated.c", "-o", "unrelated.o"]);
    command::quiet(&mut compile)?;
    say::line(&format!("\n{:<28} {:>10} {:>10}", "same objects, with PDBs", "functions", "objects"));
    let mut wrong = Vec::new();
    for layout in layouts() {
        let objects = if layout.sections { &sections } else { &plain };
        let mut files: Vec<PathBuf> = fs::read_dir(objects)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        files.sort();
        let old = link(&folder.join("old"), &files, &[layout.both])?;
        shuffle(&mut files, layout.order);
        if layout.unrelated {
            files.insert(files.len() / 2, unrelated.clone());
        }
        let new = link(&folder.join("new"), &files, &[layout.both, layout.more])?;
        let report = json(
            hotgraft,
            &["diff".as_ref(), old.as_os_str(), new.as_os_str(), "--format".as_ref(), "json".as_ref()],
            &[0, 1],
        )?;
        let changed = |what: &str| -> Result<Vec<String>> {
            let all = report[what].as_array().with_context(|| format!("no {what}"))?;
            let changed = all.iter().filter(|f| f["status"] == "changed");
            Ok(changed.map(|f| f["name"].as_str().unwrap_or("?").to_owned()).collect())
        };
        let (functions, data) = (changed("functions")?, changed("objects")?);
        say::line(&format!("{:<28} {:>10} {:>10}", layout.name, functions.len(), data.len()));
        if let Some(name) = functions.first().or(data.first()) {
            wrong.push(format!("{}: {name} is called changed", layout.name));
        }
    }
    if !wrong.is_empty() {
        bail!("layout is taken for a change: {}", wrong.join("; "));
    }
    Ok(())
}

fn link(folder: &Path, files: &[PathBuf], arguments: &[&str]) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let mut link = command::at(folder, "clang-19");
    link.args(["--target=x86_64-w64-windows-gnu", "-shared", "-fuse-ld=lld", "-Wl,--pdb=image.pdb"]);
    link.args(["-Wl,--no-insert-timestamp", "-o", "image.dll"]).args(files);
    link.args(arguments.iter().filter(|a| !a.is_empty()));
    command::quiet(&mut link)?;
    Ok(folder.join("image.dll"))
}

/// Another order for each seed, the same on any machine.
fn shuffle(files: &mut [PathBuf], seed: u64) {
    let mut state = seed;
    for i in (1..files.len()).rev().take_while(|_| seed != 0) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        files.swap(i, (state >> 33) as usize % (i + 1));
    }
}
