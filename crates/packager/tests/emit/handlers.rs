//! C++ exception tables of the Visual C++ kind, from a pair that is built here: the fixtures have none.

use crate::fixtures;
use crate::tools::{scratch, stdout, tool};
use hotgraft_hotpatch::check;
use hotgraft_packager::Reach;
use hotgraft_program::{HandlerData, ObjectKind};
use std::process::Command;

#[test]
fn function_tables_come_along_with_their_funclets() {
    let clang = tool(&["clang++-19", "clang++"]);
    let (Some(clang), Some(link), Some(dlltool)) =
        (clang, tool(&["lld-link-19", "lld-link"]), tool(&["llvm-dlltool-19", "llvm-dlltool"]))
    else {
        return;
    };
    let folder = scratch("handlers");
    let run = |command: &mut Command| stdout(command.current_dir(&folder));
    for (dll, exports) in
        [("vcruntime140", "__CxxFrameHandler3\n_CxxThrowException\n__std_terminate"), ("kernel32", "ExitProcess")]
    {
        std::fs::write(folder.join("x.def"), format!("LIBRARY {dll}.dll\nEXPORTS\n{exports}\n")).unwrap();
        run(Command::new(&dlltool).args(["-m", "i386:x86-64", "-d", "x.def", "-l"]).arg(format!("{dll}.lib")));
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/emit/handlers.cpp");
    for (side, define) in [("old", "-DOLD"), ("new", "-DNEW")] {
        std::fs::create_dir_all(folder.join(side)).unwrap();
        let flags = [
            "-target",
            "x86_64-pc-windows-msvc",
            "-O1",
            "-g",
            "-gcodeview",
            "-fms-hotpatch",
            "-fcxx-exceptions",
            "-fexceptions",
        ];
        run(Command::new(&clang).args(flags).args([define, "-c", source, "-o", "x.obj"]));
        let (out, pdb) = (format!("/out:{side}/handlers.exe"), format!("/pdb:{side}/handlers.pdb"));
        let flags = ["/nologo", "/entry:start", "/subsystem:console", "/nodefaultlib", "/debug", "/functionpadmin:6"];
        run(Command::new(&link).args(flags).args([&out, &pdb]).args(["x.obj", "vcruntime140.lib", "kernel32.lib"]));
    }
    let real = fixtures::pair(&folder).expect("the pair may be patched");
    let file = real.emit(Some(Reach::Near)).unwrap();
    assert_eq!(check::check_against(&file, &real.base), []);
    let tables = real.plan.functions.iter().flat_map(|f| &real.new.functions[f.new.index()].unwind);
    let tables = tables.filter(|u| real.new.unwind[**u as usize].handler_data == HandlerData::CxxFrameHandler3);
    assert!(tables.count() >= 3, "the function and its funclets");
    let maps = real.plan.objects.iter().filter(|o| real.new.objects[o.new.index()].kind == ObjectKind::Unwind);
    assert!(maps.count() >= 4, "FuncInfo, its maps and the handler array");
}
