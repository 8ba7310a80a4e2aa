//! The example service patches itself through `hotgraft_agent.dll`, under Wine.
#![cfg(unix)]

#[path = "../../engine/tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use hotgraft_hotpatch::EntryMethod;
use object::read::pe::PeFile64;
use support::*;

const TARGET: &str = "x86_64-pc-windows-gnu";
const COMPILER: &str = "x86_64-w64-mingw32-gcc";

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Talk(ChildStdin, BufReader<ChildStdout>);

impl Talk {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.0, "{command}").unwrap();
        self.line()
    }
}

#[test]
fn a_service_patches_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = temporary.join("agent");
    fs::create_dir_all(&folder).unwrap();
    // The DLL, and the program that must lie beside it.
    let target = temporary.parent().unwrap();
    for package in ["hotgraft-agent", "hotgraft"] {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", package, "--target", TARGET, "--target-dir"]).arg(target).current_dir(&root);
        succeeds(&mut build);
    }
    let built = target.join(TARGET).join("debug");
    for name in ["hotgraft_agent.dll", "hotgraft.exe"] {
        fs::copy(built.join(name), folder.join(name)).unwrap();
    }
    let mut service = Command::new(COMPILER);
    service.args(["-O1", "-g0", "-Wall", "-Werror", "-fpatchable-function-entry=6,6", "-fno-ident", "-o"]);
    service.arg(folder.join("service.exe")).arg(root.join("testdata/agent/service.c"));
    service.arg("-I").arg(root.join("crates/agent/include")).arg(built.join("libhotgraft_agent.dll.a"));
    succeeds(&mut service);
    let mut random = Command::new(COMPILER);
    random.args(["-shared", "-O1", "-o"]).arg(folder.join("bcryptprimitives.dll"));
    succeeds(random.arg(root.join("testdata/wine/bcryptprimitives.c")).arg("-ladvapi32"));

    // A patch, and the same signed by somebody whom the policy trusts.
    let base = fs::read(folder.join("service.exe")).unwrap();
    let exports = PeFile64::parse(&base[..]).unwrap().export_table().unwrap().unwrap();
    let answer = exports
        .name_iter()
        .find(|&(name, _)| exports.name_from_pointer(name).unwrap() == b"answer")
        .map(|(_, index)| exports.address_by_index(index).unwrap())
        .unwrap();
    // lea eax, [rcx + 2]; ret
    let code = [0x8d, 0x41, 2, 0xc3];
    let mut replacement = Replacement::new("answer", answer, EntryMethod::PaddedShortJump, &code);
    replacement.base_size = 10;
    fs::write(folder.join("plain.dll"), PatchSpec::new(&base, "service.exe", 1, vec![replacement]).build()).unwrap();
    let mut key = Command::new("openssl");
    key.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    key.args(["-subj", "/CN=Example Ltd", "-addext", "extendedKeyUsage=codeSigning"]);
    succeeds(key.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(&folder));
    let wine = |program: &str| {
        let mut command = Command::new("/usr/lib/wine/wine64");
        command.env("WINEPREFIX", temporary.join("wine-agent")).env("WINEDEBUG", "-all");
        command.env("WINEDLLOVERRIDES", "mscoree,mshtml,winedbg.exe=").current_dir(&folder).arg(program);
        command.env("HOTGRAFT_AUDIT", "audit.jsonl");
        command
    };
    let _ = fs::remove_file(folder.join("audit.jsonl"));
    succeeds(wine("hotgraft.exe").args("sign plain.dll -o signed.dll --key key.pem --cert cert.pem".split(' ')));
    fs::write(folder.join("policy.toml"), "schema = \"hotgraft.policy/1\"\nroots = [\"cert.pem\"]\n").unwrap();

    let start = |patch: &str| {
        let mut child = wine("service.exe")
            .args(["policy.toml", patch])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut talk = Talk(child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        assert_eq!(talk.line(), "ready 1");
        (child, talk)
    };
    // What nobody signed is refused, and the service says why.
    let (mut child, mut talk) = start("plain.dll");
    assert_eq!(talk.ask("p"), "applied 3");
    assert!(talk.ask("m").contains("trust policy"));
    assert_eq!(talk.ask("a"), "answer 11");
    assert_eq!(talk.ask("q"), "");
    assert_eq!(child.wait().unwrap().code(), Some(7));

    let (mut child, mut talk) = start("signed.dll");
    assert_eq!(talk.ask("s"), "active 0 []");
    assert_eq!(talk.ask("p"), "applied 0", "{}", talk.ask("m"));
    assert_eq!(talk.ask("a"), "answer 12");
    let state = talk.ask("s");
    assert!(state.starts_with("active 1 [{") && state.contains("Example Ltd"), "{state}");
    assert_eq!(talk.ask("p"), "applied 3");
    assert_eq!(talk.ask("r"), "rolled back 0");
    assert_eq!(talk.ask("a"), "answer 11");
    assert!(talk.ask("s").starts_with("active 0 [{"));
    assert_eq!(talk.ask("q"), "");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    // Or somebody keeps it patched; what the policy does not trust keeps nothing out.
    let catalog = folder.join("catalog");
    fs::create_dir_all(&catalog).unwrap();
    for name in ["plain.dll", "signed.dll"] {
        fs::copy(folder.join(name), catalog.join(name)).unwrap();
    }
    let (mut child, mut talk) = start("signed.dll");
    let watch = "watch --catalog catalog --policy policy.toml --program service.exe --once --format json";
    let watched = wine("hotgraft.exe").args(watch.split(' ')).env("HOTGRAFT_AUDIT", "watch.jsonl").output().unwrap();
    let said = String::from_utf8_lossy(&watched.stdout);
    assert_eq!(watched.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&watched.stderr));
    assert_eq!(said.matches(r#""outcome":"refused""#).count(), 1, "{said}");
    assert_eq!(said.matches(r#""outcome":"done""#).count(), 1, "{said}");
    assert_eq!(talk.ask("a"), "answer 12");
    assert_eq!(talk.ask("q"), "");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    // Each attempt is in the record twice.
    assert_eq!(fs::read_to_string(folder.join("audit.jsonl")).unwrap().lines().count(), 8);
}
