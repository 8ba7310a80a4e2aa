//! `hotgraft diff`: compare two builds.

mod explain;

use crate::args::{DiffArgs, DiffFormat};
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::{Context, Result};
use hotgraft_bindiff::Files;
use hotgraft_diff::{Comparison, Options, Status, compare, report};
use hotgraft_program::{PdbChoice, Program};
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
    exports(args, &old, &new, &comparison)?;
    if let Some(name) = &args.explain {
        let found = explain::find(&old, &new, &comparison, name)?;
        match args.format {
            DiffFormat::Text => write_text(&args.output, &explain::text(&found))?,
            DiffFormat::Json => output::write_bytes(&args.output, &output::json(&explain::Document::of(found))?)?,
            DiffFormat::Html | DiffFormat::Sarif => {
                return Err(Stop::failed(
                    "--explain writes text or JSON".to_owned(),
                    "`--format html` without `--explain` shows every function that differs side by side",
                ));
            }
        }
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

/// Writes what BinDiff and its kin read.
fn exports(args: &DiffArgs, old: &Program, new: &Program, comparison: &Comparison) -> Result<()> {
    if args.binexport.is_none() && args.bindiff.is_none() {
        return Ok(());
    }
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (first, second) = (name(&args.old), name(&args.new));
    let paths = match &args.binexport {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
            Some((folder.join(format!("old_{first}.BinExport")), folder.join(format!("new_{second}.BinExport"))))
        }
        None => None,
    };
    let files =
        Files { exports: paths.as_ref().map(|(x, y)| (x.as_path(), y.as_path())), results: args.bindiff.as_deref() };
    let image = |program, name| hotgraft_bindiff::Image { program, name };
    hotgraft_bindiff::write_results(image(old, &first), image(new, &second), comparison, &files)?;
    Ok(())
}
