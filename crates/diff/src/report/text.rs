//! A comparison as text.

use super::json;
use crate::comparison::{Comparison, ObjectPair, Status};
use crate::label;
use hotgraft_program::{ObjectId, Program};
use std::fmt::Write;

/// Summary, changed functions with source position and differences, changed objects, image. Ends with a line feed.
pub fn text(old: &Program, new: &Program, c: &Comparison, seconds: f64) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, old, new, c, seconds);
    out
}

fn write(out: &mut String, old: &Program, new: &Program, c: &Comparison, seconds: f64) -> std::fmt::Result {
    let s = json::summary(c, seconds);
    writeln!(out, "old  {}", old.image.path)?;
    writeln!(out, "new  {}", new.image.path)?;
    writeln!(
        out,
        "functions: {} identical, {} changed, {} added, {} removed ({:.2} s)",
        s.identical, s.changed, s.added, s.removed, s.seconds
    )?;
    for status in [Status::Changed, Status::Added, Status::Removed] {
        for (n, pair) in c.functions.iter().enumerate().filter(|(_, p)| p.status == status) {
            let name = match (pair.old, pair.new) {
                (_, Some(id)) => label::function(new, id),
                (Some(id), None) => label::function(old, id),
                (None, None) => continue,
            };
            let rva = |p: &Program, id: Option<hotgraft_program::FunctionId>| {
                id.map_or_else(|| "-".to_owned(), |id| format!("{:x}", p.functions[id.index()].rva()))
            };
            let source = json::source(old, new, c, n).map(|s| format!("  {}:{}", s.file, s.line)).unwrap_or_default();
            writeln!(out, "{} {name}  {} -> {}{source}", sign(status), rva(old, pair.old), rva(new, pair.new))?;
            changes(out, &pair.changes)?;
        }
    }
    let differing = c.objects.iter().filter(|p| p.status != Status::Identical).count();
    if differing > 0 {
        writeln!(out, "objects: {} of {} differ", differing, c.objects.len())?;
    }
    for status in [Status::Changed, Status::Added, Status::Removed] {
        // Unnamed data that came or went follows from the functions that did; it is counted, and listed in the JSON.
        let unnamed = |p: &ObjectPair| {
            let anonymous = |program: &Program, id: Option<ObjectId>| {
                id.is_none_or(|id| {
                    label::object(program, id).ends_with(&format!("_{:x}", program.objects[id.index()].rva))
                })
            };
            status != Status::Changed && anonymous(old, p.old) && anonymous(new, p.new)
        };
        let count = c.objects.iter().filter(|p| p.status == status && unnamed(p)).count();
        if count > 0 {
            writeln!(out, "{} {count} unnamed", sign(status))?;
        }
        for pair in c.objects.iter().filter(|p| p.status == status && !unnamed(p)) {
            let (name, p, o) = match (pair.old, pair.new) {
                (_, Some(id)) => (label::object(new, id), new, &new.objects[id.index()]),
                (Some(id), None) => (label::object(old, id), old, &old.objects[id.index()]),
                (None, None) => continue,
            };
            let section = p.image.section_at(o.rva).map_or("", |s| s.name.as_str());
            writeln!(out, "{} {name}  {section} {:x}, {} bytes", sign(status), o.rva, o.size)?;
            changes(out, &pair.changes)?;
        }
    }
    if !c.image.is_empty() {
        writeln!(out, "image:")?;
    }
    for change in &c.image {
        writeln!(out, "  {}  {}: {}", change.key, change.subject, change.text)?;
    }
    Ok(())
}

fn sign(status: Status) -> char {
    match status {
        Status::Identical => '=',
        Status::Changed => '~',
        Status::Added => '+',
        Status::Removed => '-',
    }
}

fn changes(out: &mut String, all: &[crate::comparison::Change]) -> std::fmt::Result {
    for change in all {
        let rva = |v: Option<u32>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:x}"));
        writeln!(out, "    {}  {} -> {}: {}", change.key, rva(change.old_rva), rva(change.new_rva), change.text)?;
    }
    Ok(())
}
