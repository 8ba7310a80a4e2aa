//! Patches of real images: every pair of testdata/fixtures that may be patched, both ways.

use hotgraft_diff::{Comparison, compare};
use hotgraft_hotpatch::{Structure, check};
use hotgraft_packager::{Decision, Error, Options, Plan, Reach, emit, plan, verdict};
use hotgraft_program::{PdbChoice, Program};
use std::path::{Path, PathBuf};

/// A pair that may be patched, with its plan.
pub struct Real {
    pub name: String,
    pub old: Program,
    pub new: Program,
    pub base: Vec<u8>,
    pub comparison: Comparison,
    pub plan: Plan,
    pub options: Options,
}

impl Real {
    pub fn emit(&self, reach: Option<Reach>) -> Result<Vec<u8>, Error> {
        let options = Options { reach, ..self.options.clone() };
        emit::emit(&self.old, &self.new, &self.comparison, &self.plan, &options)
    }
}

/// The pair in a folder with `old` and `new`; `None` if its images or PDBs cannot be read, or the verdict forbids it.
pub fn pair(folder: &Path) -> Option<Real> {
    let images: Vec<PathBuf> = std::fs::read_dir(folder.join("old")).ok()?.map(|e| e.unwrap().path()).collect();
    let old_path = images.into_iter().find(|p| p.extension().is_some_and(|e| e == "exe" || e == "dll"))?;
    let new_path = folder.join("new").join(old_path.file_name()?);
    let old = Program::load(&old_path, PdbChoice::Auto).ok()?;
    let new = Program::load(&new_path, PdbChoice::Auto).ok()?;
    let comparison = compare(&old, &new, &hotgraft_diff::Options::default());
    let accept = hotgraft_packager::rules::all().iter().map(|r| r.key.to_owned()).collect();
    let hooks = std::fs::read(folder.join("hooks.obj")).ok();
    let options = Options { accept, cves: vec!["CVE-2026-1".into()], hooks, ..Options::default() };
    let verdict = verdict::judge(&old, &new, &comparison, &options);
    if !matches!(verdict.decision, Decision::Patch | Decision::Conditional) {
        return None;
    }
    let plan = plan::plan(&old, &new, &comparison, &verdict, &options).expect("a plan follows from the verdict");
    let base = std::fs::read(&old_path).unwrap();
    let name = folder.file_name()?.to_string_lossy().into_owned();
    Some(Real { name, old, new, base, comparison, plan, options })
}

pub fn all() -> Vec<Real> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fixtures");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    folders.iter().filter_map(|f| pair(f)).collect()
}

/// The pair with hooks.
fn hooked() -> Real {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fixtures/hook");
    pair(&folder).expect("it may be patched")
}

#[test]
fn hooks_lie_in_the_patch_and_reach_the_base() {
    let real = hooked();
    let object = real.options.hooks.clone().unwrap();
    for reach in [Reach::Any, Reach::Near] {
        let bytes = real.emit(Some(reach)).unwrap();
        let graft = hotgraft_hotpatch::read(&bytes).unwrap().graft.unwrap();
        let hooks = graft.hooks.as_ref().unwrap();
        assert_eq!(hooks.object_sha256, hotgraft_hotpatch::sha::both(&object).0);
        let points: Vec<&str> = hooks.entries.iter().map(|hook| hook.point.symbol()).collect();
        assert_eq!(points, ["hotgraft_pre_apply", "hotgraft_post_apply", "hotgraft_post_rollback"]);
        // The unwinder knows each of them that has a frame: two of the three.
        let patch = Program::from_bytes("patch", &bytes, None).unwrap();
        let known = |rva: u32| patch.unwind.iter().any(|u| u.begin == rva);
        let framed: Vec<bool> = hooks.entries.iter().map(|hook| known(hook.patch_rva)).collect();
        assert_eq!(framed, [true, true, false]);
        // What they refer to in the base is guarded where it is code.
        assert!(graft.guarded.iter().any(|range| range.name == "room"));
    }
}

#[test]
fn no_object_file_upsets_the_linker_of_hooks() {
    let mut real = hooked();
    let sound = real.options.hooks.clone().unwrap();
    let mut refused = 0;
    for at in (0..sound.len()).step_by(5) {
        let mut other = sound.clone();
        other[at] ^= 0xFF;
        for object in [other, sound[..at].to_vec()] {
            real.options.hooks = Some(object);
            match real.emit(Some(Reach::Near)) {
                Ok(bytes) => assert_eq!(check::check(&bytes), []),
                Err(Error::Refused { .. }) => refused += 1,
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
    }
    assert!(refused > 200, "only {refused} refused");
    // Names that the base does not have, or not once.
    let text = |object: &[u8], from: &str, to: &str| -> Vec<u8> {
        let at = object.windows(from.len()).rposition(|w| w == from.as_bytes()).unwrap();
        [&object[..at], to.as_bytes(), &object[at + from.len()..]].concat()
    };
    real.options.hooks = Some(text(&sound, "room", "rom_"));
    let error = real.emit(None).unwrap_err().to_string();
    assert!(error.contains("rom_") && error.contains("runtime.hook"), "{error}");
}

#[test]
fn every_patch_obeys_the_rules_and_fits_its_base() {
    let pairs = all();
    assert!(pairs.len() >= 10, "only {} pairs may be patched", pairs.len());
    let mut windows = 0;
    for real in &pairs {
        let near = real.emit(Some(Reach::Near)).unwrap_or_else(|e| panic!("{}: {e}", real.name));
        assert_eq!(check::check_against(&near, &real.base), [], "{}", real.name);
        assert_eq!(near, real.emit(Some(Reach::Near)).unwrap(), "{}: same input, same bytes", real.name);
        let default = real.emit(None).unwrap();
        match real.emit(Some(Reach::Any)) {
            Ok(any) => {
                assert_eq!(check::check_against(&any, &real.base), [], "{}", real.name);
                assert_eq!(hotgraft_hotpatch::read(&any).unwrap().structure(), Structure::Windows);
                assert_eq!(default, any, "{}: slots wherever they are proven", real.name);
                windows += 1;
            }
            Err(Error::Refused { .. }) => assert_eq!(default, near, "{}", real.name),
            Err(error) => panic!("{}: {error}", real.name),
        }
    }
    assert!(windows * 2 > pairs.len(), "only {windows} of {} patches reach the base through slots", pairs.len());
}

#[test]
fn every_planned_function_and_unwind_entry_is_in_the_patch() {
    for real in all() {
        let file = real.emit(Some(Reach::Near)).unwrap();
        let graft = hotgraft_hotpatch::read(&file).unwrap().graft.unwrap();
        assert_eq!(graft.functions.len(), real.plan.functions.len(), "{}", real.name);
        let lifted = Program::from_bytes("patch.dll", &file, None).expect("the patch is an image like any other");
        let entries: usize = real.plan.functions.iter().map(|f| real.new.functions[f.new.index()].unwind.len()).sum();
        let hooks = graft.hooks.iter().flat_map(|hooks| &hooks.entries).map(|hook| hook.patch_rva).collect::<Vec<_>>();
        let own = lifted.unwind.iter().filter(|u| !hooks.contains(&u.begin)).count();
        assert_eq!(own, entries, "{}", real.name);
        for planned in &real.plan.functions {
            let new = &real.new.functions[planned.new.index()];
            let own = graft
                .functions
                .iter()
                .find(|g| g.name == hotgraft_diff::comparison::function_label(&real.new, planned.new));
            let own = own.unwrap_or_else(|| panic!("{}: a planned function is missing", real.name));
            for &index in &new.unwind {
                let theirs = &real.new.unwind[index as usize];
                if theirs.begin == new.rva() {
                    let ours =
                        lifted.unwind.iter().find(|u| u.begin == own.patch_rva).expect("unwind data of the entry");
                    assert_eq!(ours.end - ours.begin, theirs.end - theirs.begin);
                }
            }
        }
    }
}
