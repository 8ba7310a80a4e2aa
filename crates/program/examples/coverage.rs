//! Prints how much of an image is explained: `cargo run -p hotgraft-program --example coverage -- IMAGE...`.

#![allow(clippy::print_stdout, reason = "a command-line example")]

use hotgraft_program::{Entity, PdbChoice, Program, SpanKind};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let start = Instant::now();
        let p = Program::load(Path::new(&path), PdbChoice::Auto)?;
        let unknown = p.references.iter().filter(|r| r.target.entity == Entity::Unknown).count();
        let problems: usize = p.functions.iter().map(|f| f.problems.len()).sum();
        println!(
            "{path}: {} functions, {} objects, {} references ({unknown} unknown), {} types, {} lines, {problems} problems, {} conflicts, {:?}",
            p.functions.len(),
            p.objects.len(),
            p.references.len(),
            p.types.udts.len(),
            p.lines.len(),
            p.conflicts.len(),
            start.elapsed()
        );
        for s in p.coverage() {
            let known = 100.0 * (s.size - s.unknown) as f64 / (s.size.max(1)) as f64;
            println!(
                "  {:<16} {known:7.3} %  code {:>8} object {:>8} padding {:>6} unknown {:>6}",
                s.section, s.code, s.object, s.padding, s.unknown
            );
            for (rva, size) in s.unknown_ranges.iter().take(8) {
                println!(
                    "    unknown {rva:#x}..{:#x} {:02x?}",
                    rva + size,
                    p.image.bytes(*rva, (*size).min(16) as usize)
                );
            }
        }
        for (rva, text) in p.conflicts.iter().take(10) {
            println!("  conflict {rva:#x}: {text}");
        }
        let mut keys = std::collections::BTreeMap::<&str, usize>::new();
        for f in &p.functions {
            for problem in &f.problems {
                *keys.entry(problem.key).or_default() += 1;
            }
        }
        println!("  problems by key: {keys:?}");
        for r in p.references.iter().filter(|r| r.target.entity == Entity::Unknown).take(10) {
            println!("  unknown target {:#x} at {:#x} {:?} in {:?}", r.rva, r.site, r.form, p.function_at(r.site));
        }
        debug_assert!(p.spans.iter().all(|s| s.size != 0 || s.kind == SpanKind::Unknown));
    }
    Ok(())
}
