//! `hotgraft diff`: compare two builds.

use crate::args::{DiffArgs, DiffFormat};
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::Result;
use hotgraft_diff::align::{Line, LineKind};
use hotgraft_diff::{Comparison, Options, Status, compare, report};
use hotgraft_program::{PdbChoice, Program};
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// Run the command.
pub fn run(args: &DiffArgs, terminal: &Terminal) -> Result<Exit> {
    let started = Instant::now();
    let progress = terminal.progress("reading images");
    let side = |path: &Path, pdb: Option<&Path>| {
        let choice = match pdb {
            _ if args.no_pdb => PdbChoice::None,
            Some(pdb) => PdbChoice::Path(pdb.to_owned()),
            None => PdbChoice::Auto,
        };
        Program::load(path, choice)
    };
    let (old, new) =
        rayon::join(|| side(&args.old, args.pdbs.old_pdb.as_deref()), || side(&args.new, args.pdbs.new_pdb.as_deref()));
    let (old, new) = (old?, new?);
    drop(progress);
    let progress = terminal.progress("comparing");
    let comparison = compare(&old, &new, &Options { structure_only: args.no_pdb, ..Options::default() });
    drop(progress);
    let seconds = started.elapsed().as_secs_f64();
    let exit = if differs(&comparison) { Exit::No } else { Exit::Done };
    if let Some(name) = &args.explain {
        write_text(&args.output, &explain(&old, &new, &comparison, name)?)?;
        return Ok(exit);
    }
    match args.format {
        DiffFormat::Text => write_text(&args.output, &report::text(&old, &new, &comparison, seconds))?,
        DiffFormat::Json => {
            output::write_bytes(&args.output, &output::json(&report::json(&old, &new, &comparison, seconds))?)?;
        }
        DiffFormat::Html => {
            output::write_bytes(&args.output, crate::html::page(&old, &new, &comparison)?.as_bytes())?;
        }
        DiffFormat::Sarif => {
            let findings = crate::sarif::differences(&old, &new, &comparison);
            output::write_bytes(&args.output, &crate::sarif::document(findings)?)?;
        }
    }
    Ok(exit)
}

/// Stamps alone are no difference.
fn differs(comparison: &Comparison) -> bool {
    comparison.functions.iter().any(|p| p.status != Status::Identical)
        || comparison.objects.iter().any(|p| p.status != Status::Identical)
        || comparison.image.iter().any(|c| !is_stamp(c.key))
}

/// Differences of two builds of one source.
fn is_stamp(key: &str) -> bool {
    matches!(key, "image.timestamp" | "image.checksum" | "image.pdb")
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    if path == Path::new("-") { output::print_text(text) } else { output::write_bytes(path, text.as_bytes()) }
}

/// Both sides of one function, aligned by instruction.
fn explain(old: &Program, new: &Program, comparison: &Comparison, name: &str) -> Result<String> {
    let named = |program: &Program, id| hotgraft_diff::label::is_called(program, id, name);
    let pairs: Vec<_> = comparison
        .functions
        .iter()
        .filter(|p| p.old.is_some_and(|f| named(old, f)) || p.new.is_some_and(|f| named(new, f)))
        .collect();
    if pairs.is_empty() {
        return Err(Stop::failed(
            format!("neither image has a function named {name}"),
            "`hotgraft inspect --functions` lists them; functions without a name are called sub_RVA",
        ));
    }
    let mut out = String::new();
    for pair in pairs {
        let label = pair.old.map(|f| hotgraft_diff::label::function(old, f));
        let label = label.or(pair.new.map(|f| hotgraft_diff::label::function(new, f))).unwrap_or_default();
        let evidence = pair.matched.map(|m| format!(", matched by {:?} ({:.2})", m.by, m.score)).unwrap_or_default();
        let _ = writeln!(out, "{label}: {:?}{evidence}", pair.status);
        for change in &pair.changes {
            let _ = writeln!(out, "  {}: {}", change.key, change.text);
        }
        if let (Some(a), Some(b)) = (pair.old, pair.new) {
            for line in hotgraft_diff::align::listing(old, a, new, b) {
                out.push_str(&side_by_side(&line));
            }
        }
    }
    Ok(out)
}

fn side_by_side(line: &Line) -> String {
    const WIDTH: usize = 58;
    let (mark, style) = match line.kind {
        LineKind::Same => (" ", anstyle::Style::new()),
        LineKind::Changed => ("|", anstyle::AnsiColor::Yellow.on_default()),
        LineKind::Removed => ("<", anstyle::AnsiColor::Red.on_default()),
        LineKind::Inserted => (">", anstyle::AnsiColor::Green.on_default()),
    };
    let side = |side: &Option<(u32, String)>| {
        let text = side.as_ref().map(|(rva, text)| format!("{rva:8x}  {text}")).unwrap_or_default();
        if text.chars().count() > WIDTH { text.chars().take(WIDTH - 1).chain(['…']).collect() } else { text }
    };
    format!("{style}{:<WIDTH$} {mark} {}{style:#}\n", side(&line.old), side(&line.new))
}
