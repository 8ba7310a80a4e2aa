//! Independent readers and a real loader accept what is emitted. Where the program is missing, the test fails.

use crate::common::pair;
use crate::near::sides;
use crate::parsed::Emitted;
use hotgraft_packager::Reach;
use std::path::{Path, PathBuf};
use std::process::Command;

const WINE: &str = "/usr/lib/wine/wine64";

/// The first of these programs that can be run.
pub fn tool(names: &[&str]) -> Option<PathBuf> {
    let found = names.iter().find_map(|name| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|p| p.is_file())
    });
    assert!(found.is_some(), "none of {names:?} is installed: `cargo xtask setup` installs what is needed");
    found
}

pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn stdout(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).replace("\r\n", "\n");
    assert!(out.status.success(), "{command:?}: {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{command:?}");
    text
}

fn emitted() -> Emitted {
    let (old, new) = sides();
    Emitted::of(&pair(&old, &new).accept("image.import.new_dll"), Reach::Near)
}

#[test]
fn llvm_reads_every_part() {
    let Some(readobj) = tool(&["llvm-readobj-19", "llvm-readobj"]) else { return };
    let file = scratch("readobj").join("patch.dll");
    std::fs::write(&file, emitted().file).unwrap();
    let text = stdout(
        Command::new(readobj)
            .args([
                "--file-headers",
                "--sections",
                "--unwind",
                "--coff-imports",
                "--coff-basereloc",
                "--coff-load-config",
            ])
            .arg(&file),
    );
    for part in ["IMAGE_FILE_DLL", ".hgraft", "Name: kernel32.dll", "Symbol: Beep", "Type: DIR64", "Size: 0xF8"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn llvm_reads_the_patch_of_every_fixture() {
    let Some(readobj) = tool(&["llvm-readobj-19", "llvm-readobj"]) else { return };
    for real in crate::fixtures::all() {
        let file = scratch("readobj").join(format!("{}.dll", real.name));
        std::fs::write(&file, real.emit(None).unwrap()).unwrap();
        let parts =
            ["--file-headers", "--sections", "--unwind", "--coff-imports", "--coff-basereloc", "--coff-load-config"];
        let text = stdout(Command::new(&readobj).args(parts).arg(&file));
        assert!(text.contains(".hgraft"), "{text}");
    }
}

#[test]
fn wine_loads_it_as_an_ordinary_dll() {
    let Some(gcc) = tool(&["x86_64-w64-mingw32-gcc-win32", "x86_64-w64-mingw32-gcc"]) else { return };
    let Some(wine) = tool(&[WINE]) else { return };
    let folder = scratch("loader");
    let mut names = vec!["patch.dll".to_owned()];
    std::fs::write(folder.join("patch.dll"), emitted().file).unwrap();
    for real in crate::fixtures::all() {
        names.push(format!("{}.dll", real.name));
        std::fs::write(folder.join(names.last().unwrap()), real.emit(None).unwrap()).unwrap();
    }
    std::fs::write(
        folder.join("load.c"),
        r#"#include <windows.h>
        #include <stdio.h>
        int main(int argc, char **argv)
        {
            for (int i = 1; i < argc; i++) {
                HMODULE m = LoadLibraryA(argv[i]);
                if (!m) { printf("%s: error %lu\n", argv[i], GetLastError()); return 1; }
                if (*(short *)m != 0x5A4D || GetModuleHandleA(argv[i]) != m || !FreeLibrary(m)) return 2;
            }
            printf("loaded %d\n", argc - 1);
            return 0;
        }"#,
    )
    .unwrap();
    stdout(Command::new(gcc).current_dir(&folder).args(["-o", "load.exe", "load.c"]));
    let out = Command::new(wine)
        .current_dir(&folder)
        .arg("load.exe")
        .args(&names)
        .env("WINEPREFIX", folder.join("prefix"))
        .env("WINEDEBUG", "-all")
        .env("WINEDLLOVERRIDES", "mscoree,mshtml,winemenubuilder.exe=")
        .env_remove("DISPLAY")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), format!("loaded {}", names.len()), "{out:?}");
}
