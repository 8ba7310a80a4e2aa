//! Prints what the code analysis knows of each image given as an argument: indirect jumps, tables, problems.
//!
//! `cargo run -p hotgraft-program --example code_facts -- [--tables] [--problems] IMAGE...`
#![allow(clippy::print_stdout, reason = "an example reports on standard output")]

use hotgraft_program::code::{self, CodeSpanKind, Context, Flow};
use hotgraft_program::unwind;
use hotgraft_program::{PdbChoice, Program};
use std::collections::BTreeMap;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, paths): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let tables = flags.iter().any(|f| f == "--tables");
    let show = flags.iter().any(|f| f == "--problems");
    for path in paths {
        let program = Program::load(Path::new(&path), PdbChoice::Auto)?;
        let image = &program.image;
        let handler = |rva: u32| {
            let named = program.function_entry(rva).and_then(|id| program.functions[id.index()].name.clone());
            let slot = code::decode_at(image.mapped.get(rva as usize..)?, rva)?.address?.target;
            named.or_else(|| program.import_at(slot).map(|i| program.imports[i.index()].name.to_string()))
        };
        let table = unwind::read(image, &handler)?;
        if show {
            for problem in &table.problems {
                println!("{:#x} {}: {}", problem.rva, problem.key, problem.text);
            }
        }
        let pads: Vec<u32> = table.code_targets.iter().map(|t| t.rva).collect();
        let mut pointers: Vec<u32> = image
            .base_relocations
            .iter()
            .filter_map(|r| u32::try_from(image.u64(*r)?.checked_sub(image.image_base)?).ok())
            .collect();
        pointers.sort_unstable();
        // What the compiler says of its jump tables: (jump, table, entries).
        let pdb_path = Path::new(&path).with_extension("pdb");
        let mut told = BTreeMap::new();
        if program.has_pdb && pdb_path.is_file() {
            let pdb = hotgraft_program::pdb::read(&path, &std::fs::read(pdb_path)?, image)?;
            told.extend(pdb.switch_tables.iter().map(|s| ((s.jump, s.table), s.entries)));
        }
        let (mut agreed, mut differing) = (0, 0);
        let mut jumps = 0;
        let (mut tabled, mut proven, mut tails, mut offsets, mut displacements) = (0, 0, 0, 0, 0);
        let mut spans = BTreeMap::<String, u64>::new();
        let mut problems = BTreeMap::<&str, u64>::new();
        for function in &program.functions {
            let context = Context { landing_pads: &pads, pointer_targets: &pointers, ..Context::default() };
            for facts in code::analyse_function(image, &function.ranges, &context) {
                for rva in &facts.instructions {
                    let decoded = code::decode_at(&image.mapped[*rva as usize..], *rva);
                    jumps += usize::from(decoded.is_some_and(|d| d.flow == Flow::IndirectJump));
                }
                tabled += facts.jump_tables.len();
                for table in &facts.jump_tables {
                    match told.remove(&(table.jump, table.table)) {
                        Some(entries) if entries == table.entries => agreed += 1,
                        entries => {
                            differing += 1;
                            if show {
                                println!("{table:?}, told {entries:?}");
                            }
                        }
                    }
                }
                proven += facts.jump_tables.iter().filter(|t| t.bound_proven).count();
                tails += facts.indirect_tail_jumps.len();
                offsets += facts.offset_tables.len();
                displacements += facts
                    .references
                    .iter()
                    .filter(|r| r.form == hotgraft_program::Form::ImageRelativeDisplacement)
                    .count();
                for span in &facts.spans {
                    let name = match span.kind {
                        CodeSpanKind::Code => "code",
                        CodeSpanKind::Table => "table",
                        CodeSpanKind::Padding => "padding",
                        CodeSpanKind::Unknown => "unknown",
                    };
                    *spans.entry(name.into()).or_default() += u64::from(span.size);
                }
                if tables {
                    for t in &facts.jump_tables {
                        println!(
                            "jump {:#x} table {:#x} entries {} {:?} {}",
                            t.jump, t.table, t.entries, t.form, t.bound_proven
                        );
                    }
                    for t in &facts.offset_tables {
                        println!(
                            "load {:#x} offsets {:#x} entries {} {:?} {}",
                            t.load, t.table, t.entries, t.form, t.bound_proven
                        );
                    }
                }
                for problem in &facts.problems {
                    *problems.entry(problem.key).or_default() += 1;
                    if show {
                        let name = function.name.as_deref().unwrap_or("?");
                        println!("{name} {:#x} {}: {}", problem.rva, problem.key, problem.text);
                    }
                }
            }
        }
        let mut handlers = BTreeMap::<String, u64>::new();
        for entry in &table.entries {
            *handlers.entry(format!("{:?}", entry.handler_data)).or_default() += 1;
        }
        println!(
            "{path}: {} functions, {jumps} indirect jumps: {tabled} tables ({proven} proven), {tails} tail calls, {} \
             unresolved; {offsets} offset tables, {displacements} displacements; bytes {spans:?}; problems {problems:?}; \
             handlers {handlers:?}; told tables: {agreed} agree, {differing} differ, {} not found",
            program.functions.len(),
            jumps - tabled - tails,
            told.len(),
        );
    }
    Ok(())
}
