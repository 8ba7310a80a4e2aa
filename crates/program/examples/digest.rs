//! One number for each part of what is read of images: `digest [--no-pdb] IMAGE...`. Two builds of this program that print the
//! same read the same. With `--print PART` the part itself, to see what differs.
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use hotgraft_program::{PdbChoice, Program};
use std::fmt::{Debug, Write};
use std::hash::Hasher;
use std::path::Path;

/// Hashes what is written to it.
struct Digest(rustc_hash::FxHasher);

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    let (mut pdb, mut print) = (true, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--no-pdb" => pdb = false,
            "--print" => print = arguments.next(),
            _ => files.push(argument),
        }
    }
    for file in files {
        let program = Program::load(Path::new(&file), if pdb { PdbChoice::Auto } else { PdbChoice::None })?;
        let parts: [(&str, Vec<&dyn Debug>); 6] = [
            ("functions", program.functions.iter().map(|f| f as &dyn Debug).collect()),
            ("objects", program.objects.iter().map(|o| o as &dyn Debug).collect()),
            ("references", program.references.iter().map(|r| r as &dyn Debug).collect()),
            ("unwind", program.unwind.iter().map(|u| u as &dyn Debug).collect()),
            ("spans", program.spans.iter().map(|s| s as &dyn Debug).collect()),
            ("conflicts", program.conflicts.iter().map(|c| c as &dyn Debug).collect()),
        ];
        for (name, part) in &parts {
            if print.as_deref() == Some(name) {
                part.iter().for_each(|one| println!("{one:?}"));
            }
            let mut digest = Digest(rustc_hash::FxHasher::default());
            part.iter().try_for_each(|one| writeln!(digest, "{one:?}"))?;
            if print.is_none() {
                println!("{file} {name} {} {:016x}", part.len(), digest.0.finish());
            }
        }
    }
    Ok(())
}
