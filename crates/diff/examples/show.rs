//! Prints what a program says of an address: `show IMAGE RVA... [--no-pdb]` (hexadecimal).
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use hotgraft_program::{Entity, PdbChoice, Program};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, args): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let mut args = args.into_iter();
    let choice = if flags.is_empty() { PdbChoice::Auto } else { PdbChoice::None };
    let p = Program::load(Path::new(&args.next().ok_or("show IMAGE RVA...")?), choice)?;
    for arg in args {
        let rva = u32::from_str_radix(&arg, 16)?;
        let t = p.resolve(rva);
        println!("{rva:x}: {t:?} {}", hotgraft_diff::label::target(&p, t));
        let (a, b) = match t.entity {
            Entity::Object(id) => {
                let o = &p.objects[id.index()];
                println!("  {o:?}");
                (o.rva, o.end())
            }
            Entity::Function(id) | Entity::Fragment(id, _) => {
                let f = &p.functions[id.index()];
                println!("  {f:?}");
                for u in &f.unwind {
                    println!("  {:?}", p.unwind[*u as usize]);
                }
                (f.rva(), f.ranges[0].end())
            }
            _ => continue,
        };
        for r in p.references_in(a, b) {
            println!(
                "    {:x}/{} {:?} -> {:x} {}",
                r.site,
                r.width,
                r.form,
                r.rva,
                hotgraft_diff::label::target(&p, r.target)
            );
        }
    }
    Ok(())
}
