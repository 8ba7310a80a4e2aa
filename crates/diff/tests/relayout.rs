//! The same objects linked in other ways, with real compiler and linker: nothing changed, and nothing is called changed.

use hotgraft_diff::{Comparison, Options, Status, compare, label};
use hotgraft_program::{PdbChoice, Program};
use proptest::prelude::*;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Object files of one library.
const UNITS: usize = 8;

struct Objects {
    folder: tempfile::TempDir,
    units: Vec<PathBuf>,
    unrelated: PathBuf,
}

/// A unit with code that calls others, switches, and uses text, constants, tables and variables of its own.
fn source(n: usize) -> String {
    let mut text = String::new();
    let (next, after) = ((n + 1) % UNITS, (n + 3) % UNITS);
    let _ = writeln!(text, "extern int run{next}(int, const char *); extern int sum{after}(const int *, int);");
    let _ = writeln!(text, "extern int (*const table{after}[])(int);");
    let _ = writeln!(
        text,
        "static int seen{n}; int shared{n} = {n} * 3 + 1; static const int weights{n}[] = {{ {n}, 7, {n} * {n}, 11 }};"
    );
    let _ = writeln!(text, "static int first{n}(int a) {{ return a * {} + seen{n}; }}", n + 3);
    let _ = writeln!(text, "static int second{n}(int a) {{ return a ^ weights{n}[a & 3]; }}");
    // Each unit has this twin under a name of its own: folding makes one of them.
    let _ = writeln!(text, "__attribute__((noinline)) int twin{n}(int a) {{ return a * 5 - (a >> 2) + (a & 9) * 3; }}");
    let _ = writeln!(text, "int (*const table{n}[])(int) = {{ first{n}, second{n}, twin{n} }};");
    let _ = writeln!(
        text,
        "int sum{n}(const int *all, int count) {{ int s = 0; for (int i = 0; i < count; i++) s += all[i] * weights{n}[i & 3] + shared{n}; return s; }}"
    );
    let _ = writeln!(
        text,
        "__declspec(dllexport) int run{n}(int a, const char *text) {{\n  seen{n} += a;\n  switch (a) {{\n  case 0: return run{next}(a + 1, \"unit {n}\");\n  case 1: return sum{after}(weights{n}, 4);\n  case 2: return table{after}[seen{n} & 1](a);\n  case 3: return text[0] + twin{n}(a);\n  case 4: return shared{n} ? run{next}(7, text + 1) : 5;\n  case 5: return text[{n}] - 'a';\n  default: return first{n}(a) + second{n}(a);\n  }}\n}}"
    );
    text
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; `cargo xtask setup` installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

static OBJECTS: LazyLock<Objects> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let compile = |name: &str, source: &str| {
        let object = folder.path().join(format!("{name}.obj"));
        std::fs::write(folder.path().join(format!("{name}.c")), source).expect("it can be written");
        let mut clang = Command::new("clang-19");
        clang.current_dir(folder.path()).args(["-target", "x86_64-pc-windows-msvc", "-O2", "-g", "-gcodeview"]);
        run(clang
            .args(["-ffreestanding", "-ffunction-sections", "-c"])
            .arg(format!("{name}.c"))
            .arg("-o")
            .arg(&object));
        object
    };
    let units = (0..UNITS).map(|n| compile(&format!("unit{n}"), &source(n))).collect();
    let unrelated = compile("unrelated", "__declspec(dllexport) int unrelated(int a) { return a * 17 + 4; }\n");
    Objects { folder, units, unrelated }
});

/// Links these objects; each name is linked to once.
fn link(name: &str, objects: &[PathBuf], arguments: &[&str]) -> Program {
    let out = OBJECTS.folder.path().join(name);
    std::fs::create_dir_all(&out).expect("a folder");
    let mut link = Command::new("lld-link-19");
    link.current_dir(&out).args(["/nologo", "/dll", "/noentry", "/nodefaultlib", "/debug", "/out:x.dll", "/pdb:x.pdb"]);
    // The linker's own order of equal objects is that of the command line.
    run(link.args(arguments).args(objects));
    load(&out.join("x.dll"))
}

fn load(path: &Path) -> Program {
    let program = Program::load(path, PdbChoice::Auto).expect("it can be read");
    assert!(program.has_pdb);
    program
}

fn plain() -> &'static Program {
    static PLAIN: LazyLock<Program> = LazyLock::new(|| link("plain", &OBJECTS.units, &["/opt:noicf"]));
    &PLAIN
}

/// Names of what is changed, and how many functions were added or removed.
fn differences(old: &Program, new: &Program) -> (Vec<String>, usize) {
    let c: Comparison = compare(old, new, &Options::default());
    let functions = c.functions.iter().filter(|p| p.status == Status::Changed).filter_map(|p| p.old);
    let objects = c.objects.iter().filter(|p| p.status == Status::Changed).filter_map(|p| p.old);
    let mut changed: Vec<String> = functions.map(|id| label::function(old, id)).collect();
    changed.extend(objects.map(|id| label::object(old, id)));
    let alone = c.functions.iter().filter(|p| matches!(p.status, Status::Added | Status::Removed)).count();
    (changed, alone)
}

fn unchanged(name: &str, arguments: &[&str]) {
    let new = link(name, &OBJECTS.units, arguments);
    assert!(new.functions.len() >= UNITS * 3);
    assert_eq!(differences(plain(), &new), (Vec::new(), 0));
    // The other way round, too.
    assert_eq!(differences(&new, plain()), (Vec::new(), 0));
}

#[test]
fn image_base() {
    unchanged("base", &["/opt:noicf", "/base:0x1a0000000"]);
}

#[test]
fn section_alignment() {
    unchanged("alignment", &["/opt:noicf", "/align:16384"]);
}

#[test]
fn file_alignment() {
    unchanged("file", &["/opt:noicf", "/filealign:4096"]);
}

#[test]
fn function_padding() {
    unchanged("padding", &["/opt:noicf", "/functionpadmin:16"]);
}

#[test]
fn unrelated_object() {
    let mut objects = OBJECTS.units.clone();
    objects.insert(UNITS / 2, OBJECTS.unrelated.clone());
    let new = link("unrelated", &objects, &["/opt:noicf"]);
    assert_eq!(differences(plain(), &new), (Vec::new(), 1));
}

#[test]
fn folding_of_equal_functions() {
    let new = link("folded", &OBJECTS.units, &["/opt:icf"]);
    assert!(new.functions.len() < plain().functions.len(), "nothing was folded");
    assert_eq!(differences(plain(), &new).0, Vec::<String>::new());
    assert_eq!(differences(&new, plain()).0, Vec::<String>::new());
}

#[test]
fn a_change_is_found_in_any_layout() {
    // What the tests above show would also hold if nothing were ever called changed.
    let mut objects = OBJECTS.units.clone();
    let changed = OBJECTS.folder.path().join("changed.obj");
    let text = source(2).replace("return a * 5 - (a >> 2)", "return a * 5 - (a >> 3)");
    std::fs::write(OBJECTS.folder.path().join("changed.c"), text).expect("it can be written");
    let mut clang = Command::new("clang-19");
    clang.current_dir(OBJECTS.folder.path()).args(["-target", "x86_64-pc-windows-msvc", "-O2", "-g", "-gcodeview"]);
    run(clang.args(["-ffreestanding", "-ffunction-sections", "-c", "changed.c", "-o", "changed.obj"]));
    objects[2] = changed;
    objects.reverse();
    let new = link("changed", &objects, &["/opt:noicf", "/base:0x1b0000000", "/functionpadmin:16"]);
    assert_eq!(differences(plain(), &new), (vec!["twin2".to_owned()], 0));
}

proptest! {
    // Each case is a link; a failing order is as good as a shorter one.
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn object_order(order in Just((0..UNITS).collect::<Vec<_>>()).prop_shuffle()) {
        let objects: Vec<PathBuf> = order.iter().map(|n| OBJECTS.units[*n].clone()).collect();
        let name = format!("order-{}", order.iter().map(usize::to_string).collect::<Vec<_>>().join("-"));
        let new = link(&name, &objects, &["/opt:noicf"]);
        prop_assert_eq!(differences(plain(), &new), (Vec::new(), 0));
    }
}
