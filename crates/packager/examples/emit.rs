//! Makes patches of pairs of images and says how far each gets: `emit OLD NEW [OLD NEW]...`.
#![allow(clippy::print_stdout)]

use hotgraft_packager::{Error, Options, Reach, emit, plan, verdict};
use hotgraft_program::{PdbChoice, Program};
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks_exact(2) {
        println!("{}: {}", pair[1], one(Path::new(&pair[0]), Path::new(&pair[1])));
    }
}

fn one(old: &Path, new: &Path) -> String {
    let load = |path: &Path| Program::load(path, PdbChoice::Auto);
    let (old, new) = match (load(old), load(new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(e), _) | (_, Err(e)) => return format!("cannot load: {e}"),
    };
    let comparison = hotgraft_diff::compare(&old, &new, &hotgraft_diff::Options::default());
    let mut options = Options { allow_without_pdb: true, ..Options::default() };
    options.accept = hotgraft_packager::rules::all().iter().map(|r| r.key.to_owned()).collect();
    let verdict = verdict::judge(&old, &new, &comparison, &options);
    let plan = match plan::plan(&old, &new, &comparison, &verdict, &options) {
        Ok(plan) => plan,
        Err(_) => {
            let mut keys: Vec<_> = verdict
                .findings
                .iter()
                .filter(|f| f.outcome == hotgraft_packager::Outcome::Refuse)
                .map(|f| f.key)
                .collect();
            keys.dedup();
            return format!("{:?} {keys:?}", verdict.decision);
        }
    };
    let mut out = format!("{} functions, {} objects:", plan.functions.len(), plan.objects.len());
    for reach in [Reach::Near, Reach::Any] {
        options.reach = Some(reach);
        out += &match emit::emit(&old, &new, &comparison, &plan, &options) {
            Ok(file) => {
                if let Some(folder) = std::env::var_os("EMIT_TO") {
                    let name = format!("{:?}-{}", reach, &plan.base.file_name).to_lowercase();
                    std::fs::write(Path::new(&folder).join(name), &file).unwrap();
                }
                let graft = hotgraft_hotpatch::read(&file).unwrap().graft.unwrap();
                format!(" {reach:?} {} bytes, {} near, {} guarded;", file.len(), graft.near.len(), graft.guarded.len())
            }
            Err(Error::Refused { key, text }) => format!(" {reach:?} refused {key}: {text};"),
            Err(e) => format!(" {reach:?} FAILED {e};"),
        };
    }
    out
}
