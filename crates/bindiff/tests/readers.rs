//! What is written, read back: by the same messages, and by Python readers that carry the published schemas.

use hotgraft_bindiff::proto::BinExport2;
use hotgraft_bindiff::{Files, Image, binexport, write_results};
use hotgraft_diff::{Comparison, Options, Status, compare};
use hotgraft_program::{Entity, Form, PdbChoice, Program};
use iced_x86::{Decoder, DecoderOptions};
use prost::Message;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Image, name of its file.
type Side = (Program, String);

fn fixture(name: &str) -> (Side, Side, Comparison) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels deep");
    let side = |side: &str| {
        let folder = root.join("testdata/fixtures").join(name).join(side);
        let files = std::fs::read_dir(&folder).expect("the fixture is there").filter_map(Result::ok).map(|e| e.path());
        let image = files.into_iter().find(|p| p.extension().is_some_and(|e| e == "dll" || e == "exe"));
        let image: PathBuf = image.expect("it has an image");
        let name = image.file_name().expect("it has a name").to_string_lossy().into_owned();
        (Program::load(&image, PdbChoice::Auto).expect("it can be read"), name)
    };
    let (old, new) = (side("old"), side("new"));
    let comparison = compare(&old.0, &new.0, &Options::default());
    (old, new, comparison)
}

fn names() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels deep");
    let folders = std::fs::read_dir(root.join("testdata/fixtures")).expect("fixtures are committed");
    let mut names: Vec<String> = folders
        .filter_map(Result::ok)
        .filter(|e| e.path().join("expect.json").exists())
        // The pair that shows how PDBs of another build are refused cannot be read, which is its point.
        .filter(|e| !std::fs::read_to_string(e.path().join("expect.json")).expect("text").contains("\"exit\": 2"))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn exports_hold_every_instruction_of_every_function() {
    for name in names() {
        let ((program, file), _, _) = fixture(&name);
        let bytes = binexport::export(&program, &file).encode_to_vec();
        let read = BinExport2::decode(bytes.as_slice()).expect("it can be read back");
        assert_eq!(read.encode_to_vec(), bytes, "{name}");
        assert_eq!(read.flow_graph.len(), program.functions.len(), "{name}");
        // Addresses of instructions that have none of their own follow from the bytes before.
        let mut next = 0;
        let mut seen = BTreeSet::new();
        for instruction in &read.instruction {
            let address = instruction.address.unwrap_or(next);
            let raw = instruction.raw_bytes.as_deref().expect("it has bytes");
            let rva = (address - program.image.image_base) as u32;
            assert_eq!(program.image.bytes(rva, raw.len()), Some(raw), "{name}");
            assert!(seen.insert(address), "{name}: {address:#x} twice");
            next = address + raw.len() as u64;
        }
        // Every byte of a function is an instruction, a table or filler.
        for function in program.functions.iter().filter(|f| f.problems.is_empty()) {
            let entry = program.image.image_base + u64::from(function.rva());
            assert!(seen.contains(&entry), "{name}: no instruction at {entry:#x}");
        }
        let blocks = &read.basic_block;
        for graph in &read.flow_graph {
            let entry = graph.entry_basic_block_index.expect("it has an entry");
            assert!(graph.basic_block_index.contains(&entry), "{name}");
            for edge in &graph.edge {
                for end in [edge.source_basic_block_index, edge.target_basic_block_index] {
                    let end = end.expect("edges have ends");
                    assert!(graph.basic_block_index.contains(&end) && blocks.get(end as usize).is_some(), "{name}");
                }
            }
        }
    }
}

#[test]
fn the_same_input_gives_the_same_files() {
    let (old, new, comparison) = fixture(&names()[0]);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |n: u32| {
        let path = |name: &str| folder.path().join(format!("{n}-{name}"));
        let (x, y, results) = (path("old.BinExport"), path("new.BinExport"), path("results.BinDiff"));
        let files = Files { exports: Some((&x, &y)), results: Some(&results) };
        let image = |side: &'static str| {
            let (program, name) = if side == "old" { &old } else { &new };
            Image { program, name }
        };
        write_results(image("old"), image("new"), &comparison, &files).expect("it can be written");
        // The results name the exports, which have another name each time.
        [x, y].map(|p| std::fs::read(p).expect("it was written"))
    };
    assert_eq!(write(1), write(2));
    let missing = folder.path().join("none/results.BinDiff");
    let files = Files { exports: None, results: Some(&missing) };
    let image = |side: &Side| Image { program: Box::leak(Box::new(side.0.clone())), name: "image" };
    assert!(write_results(image(&old), image(&new), &comparison, &files).is_err());
    assert!(!missing.exists());
}

/// The interpreter with the readers: the named one, or where `cargo xtask setup` puts it.
fn python() -> String {
    std::env::var("HOTGRAFT_PYTHON").unwrap_or_else(|_| {
        let home = std::env::var("HOME").unwrap_or_default();
        let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
        format!("{cache}/hotgraft/tools/python/bin/python")
    })
}

#[test]
fn independent_readers_see_the_same() {
    for name in names().into_iter().step_by(5) {
        let (old, new, comparison) = fixture(&name);
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let (x, y, results) = (path("old.BinExport"), path("new.BinExport"), path("results.BinDiff"));
        let image = |side: &Side| Image { program: Box::leak(Box::new(side.0.clone())), name: "image.dll" };
        let files = Files { exports: Some((&x, &y)), results: Some(&results) };
        write_results(image(&old), image(&new), &comparison, &files).expect("it can be written");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readers.py");
        let output = Command::new(python()).arg(script).args([&x, &y, &results]).output().expect("python runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let seen: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
        check_side(&name, &old.0, &seen["old"]);
        check_side(&name, &new.0, &seen["new"]);
        check_results(&name, &old.0, &new.0, &comparison, &seen);
    }
}

fn check_side(name: &str, program: &Program, seen: &Value) {
    assert_eq!(seen["architecture"], "x86-64");
    let functions = seen["functions"].as_object().expect("functions");
    let expected: BTreeSet<String> =
        program.functions.iter().map(|f| (program.image.image_base + u64::from(f.rva())).to_string()).collect();
    let found: BTreeSet<String> = functions.keys().cloned().collect();
    assert_eq!(found, expected, "{name}");
    for function in &program.functions {
        let seen = &functions[&(program.image.image_base + u64::from(function.rva())).to_string()];
        if let Some(own) = function.decorated.as_ref().or(function.name.as_ref()) {
            let shown = seen["name"].as_str().expect("a name");
            assert!(shown == own || Some(shown) == function.name.as_deref(), "{name}: {own} is {shown}");
        }
        for instruction in
            seen["blocks"].as_object().expect("blocks").values().flat_map(|b| b.as_array().expect("lines"))
        {
            let address = instruction[0].as_u64().expect("an address");
            let rva = (address - program.image.image_base) as u32;
            let bytes = program.image.bytes(rva, 15).expect("it lies in the image");
            let decoded = Decoder::with_ip(64, bytes, u64::from(rva), DecoderOptions::NONE).decode();
            let hex: String = bytes[..decoded.len()].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(instruction[1], hex, "{name}: {address:#x}");
        }
    }
    let mut calls = BTreeSet::new();
    for function in &program.functions {
        let references = function.ranges.iter().flat_map(|r| program.references_in(r.rva, r.end()));
        let to = references.filter_map(|r| match r.target.entity {
            Entity::Function(id) if r.form == Form::Branch && r.target.addend == 0 => {
                Some(program.functions[id.index()].rva())
            }
            Entity::Import(id) => Some(program.imports[id.index()].slot),
            _ => None,
        });
        let address = |rva: u32| program.image.image_base + u64::from(rva);
        calls.extend(to.map(|rva| (address(function.rva()), address(rva))));
    }
    let number = |v: &Value| v.as_u64().expect("an address");
    let found: BTreeSet<(u64, u64)> =
        seen["calls"].as_array().expect("calls").iter().map(|c| (number(&c[0]), number(&c[1]))).collect();
    assert_eq!(found, calls, "{name}");
}

fn check_results(name: &str, old: &Program, new: &Program, comparison: &Comparison, seen: &Value) {
    let results = &seen["results"];
    assert_eq!(results["files"], serde_json::json!(["old", "new"]));
    let found = results["functions"].as_object().expect("matches");
    let address = |program: &Program, rva: u32| program.image.image_base + u64::from(rva);
    let mut expected = BTreeMap::new();
    for pair in &comparison.functions {
        let (Some(a), Some(b)) = (pair.old, pair.new) else { continue };
        let (x, y) = (old.functions[a.index()].rva(), new.functions[b.index()].rva());
        expected.insert(address(old, x).to_string(), address(new, y));
        let row = &found[&address(old, x).to_string()];
        let similarity = row[3].as_f64().expect("a similarity");
        assert_eq!(pair.status == Status::Identical, similarity == 1.0, "{name}: {row}");
    }
    let found: BTreeMap<String, u64> =
        found.iter().map(|(k, v)| (k.clone(), v[0].as_u64().expect("an address"))).collect();
    assert_eq!(found, expected, "{name}");
    // Matched blocks and instructions are blocks and instructions of the exports.
    let known = |side: &str, of: fn(&Value) -> Vec<u64>| -> BTreeSet<u64> {
        seen[side]["functions"].as_object().expect("functions").values().flat_map(|f| of(&f["blocks"])).collect()
    };
    let starts = |blocks: &Value| -> Vec<u64> {
        blocks.as_object().expect("blocks").keys().map(|k| k.parse().expect("an address")).collect()
    };
    let lines = |blocks: &Value| -> Vec<u64> {
        let all = blocks.as_object().expect("blocks").values().flat_map(|b| b.as_array().expect("lines"));
        all.map(|i| i[0].as_u64().expect("an address")).collect()
    };
    for (what, of) in [("blocks", starts as fn(&Value) -> Vec<u64>), ("instructions", lines)] {
        let (x, y) = (known("old", of), known("new", of));
        let pairs = results[what].as_array().expect("pairs");
        assert!(!pairs.is_empty(), "{name}");
        for pair in pairs {
            let (a, b) = (pair[0].as_u64().expect("an address"), pair[1].as_u64().expect("an address"));
            assert!(x.contains(&a) && y.contains(&b), "{name}: {what} {a:#x} {b:#x}");
        }
    }
}
