//! Prints the verdict over pairs of images: `judge OLD NEW [OLD NEW]...`, or `judge --brief OLD NEW...` for one line
//! per pair. PDBs are looked for beside the images.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use hotgraft_packager::verdict::{Options, Outcome, judge};
use hotgraft_packager::{Decision, plan};
use hotgraft_program::{PdbChoice, Program};
use std::collections::BTreeMap;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let brief = arguments.first().is_some_and(|a| a == "--brief");
    if brief {
        arguments.remove(0);
    }
    for pair in arguments.chunks_exact(2) {
        let started = std::time::Instant::now();
        let old = Program::load(Path::new(&pair[0]), PdbChoice::Auto)?;
        let new = Program::load(Path::new(&pair[1]), PdbChoice::Auto)?;
        let cmp = hotgraft_diff::compare(&old, &new, &hotgraft_diff::Options::default());
        let options = Options { accept: vec!["runtime.loop.endless".into()], ..Options::default() };
        let compared = started.elapsed();
        let verdict = judge(&old, &new, &cmp, &options);
        let plan = match verdict.decision {
            Decision::Patch | Decision::Conditional => Some(plan::plan(&old, &new, &cmp, &verdict, &options)?),
            _ => None,
        };
        let emitted = match &plan {
            Some(plan) => match hotgraft_packager::emit::emit(&old, &new, &cmp, plan, &options) {
                Ok(bytes) => format!("image of {} bytes", bytes.len()),
                Err(e) => format!("NOT EMITTED: {e}"),
            },
            None => String::from("-"),
        };
        let names = |outcome: Outcome| -> BTreeMap<&str, usize> {
            let mut out = BTreeMap::new();
            for f in verdict.findings.iter().filter(|f| f.outcome == outcome) {
                *out.entry(f.key).or_insert(0) += 1;
            }
            out
        };
        let functions: Vec<String> = plan
            .iter()
            .flat_map(|p| &p.functions)
            .map(|f| {
                let name = new.functions[f.new.index()].name.clone().unwrap_or_default();
                let mark = if f.old.is_none() {
                    "+"
                } else if f.method.is_none() {
                    "~"
                } else {
                    ""
                };
                format!("{mark}{name}")
            })
            .collect();
        println!(
            "{:?} {} refuse {:?} condition {:?} functions {functions:?} objects {} groups {} {emitted} ({:.1}s + {:.2}s)",
            verdict.decision,
            pair[0],
            names(Outcome::Refuse),
            names(Outcome::Condition),
            plan.as_ref().map_or(0, |p| p.objects.len()),
            plan.as_ref().map_or(0, |p| p.groups.len()),
            compared.as_secs_f32(),
            (started.elapsed() - compared).as_secs_f32(),
        );
        if !brief {
            for f in &verdict.findings {
                println!(
                    "  {:?} {} | {} | {} | {}",
                    f.outcome,
                    f.key,
                    f.subject,
                    f.text,
                    f.source.as_deref().unwrap_or("-")
                );
            }
        }
    }
    Ok(())
}
