//! The Windows build of hotgraft, its agent, and the example service, under Wine.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};

use hotgraft_hotpatch::EntryMethod;
use object::read::pe::PeFile64;
use serde_json::Value;

#[path = "../../../engine/tests/support/mod.rs"]
mod support;

use support::{PatchSpec, Replacement};

const TARGET: &str = "x86_64-pc-windows-gnu";
const COMPILER: &str = "x86_64-w64-mingw32-gcc";

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with all of it, and a Wine prefix.
pub struct Lab {
    pub folder: PathBuf,
    prefix: PathBuf,
}

/// The one lab of a test binary, for one test at a time: they ask for processes by the name of their program.
pub fn lab(name: &str) -> (&'static Lab, MutexGuard<'static, ()>) {
    static LAB: OnceLock<Lab> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    (LAB.get_or_init(|| Lab::new(name)), turn)
}

impl Lab {
    fn new(name: &str) -> Lab {
        let root = root();
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = temporary.join(name);
        let _ = fs::remove_dir_all(&folder);
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
        let lab = Lab { folder, prefix: temporary.join(format!("wine-{name}")) };
        lab.patches();
        lab
    }

    /// A patch, and the same signed by somebody whom the policy trusts.
    fn patches(&self) {
        let folder = &self.folder;
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
        let patch = PatchSpec::new(&base, "service.exe", 1, vec![replacement]);
        fs::write(folder.join("plain.dll"), patch.build()).unwrap();
        let mut key = Command::new("openssl");
        key.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
        key.args(["-subj", "/CN=Example Ltd", "-addext", "extendedKeyUsage=codeSigning"]);
        succeeds(key.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(folder));
        self.ok("sign plain.dll -o signed.dll --key key.pem --cert cert.pem");
        fs::write(folder.join("policy.toml"), "schema = \"hotgraft.policy/1\"\nroots = [\"cert.pem\"]\n").unwrap();
    }

    pub fn wine(&self, program: &str) -> Command {
        let mut command = Command::new("/usr/lib/wine/wine64");
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all");
        command.env("WINEDLLOVERRIDES", "mscoree,mshtml,winedbg.exe=").current_dir(&self.folder).arg(program);
        command.env("HOTGRAFT_AUDIT", "audit.jsonl");
        command
    }

    /// `hotgraft` with words that hold no spaces.
    pub fn hotgraft(&self, words: &str) -> Command {
        let mut command = self.wine("hotgraft.exe");
        command.args(words.split_whitespace());
        command
    }

    /// It must end with 0; what it says.
    pub fn ok(&self, words: &str) -> String {
        let output: Output = self.hotgraft(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{words}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// The example service, once it is ready.
    pub fn service(&self, patch: &str) -> Service {
        let mut child = self
            .wine("service.exe")
            .args(["policy.toml", patch])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut service = Service { child, input, output };
        assert_eq!(service.line(), "ready 1");
        service
    }
}

/// A running service.
pub struct Service {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Service {
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        self.line()
    }

    /// It must end by itself, with its own code.
    pub fn end(mut self) {
        assert_eq!(self.ask("q"), "");
        assert_eq!(self.child.wait().unwrap().code(), Some(7));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A document as one of the schemas of the repository describes it.
pub fn valid(schema: &str, document: &str) -> Value {
    let text = fs::read_to_string(root().join("docs/schemas").join(schema)).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let value: Value = serde_json::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{}\n{document}", errors.join("\n"));
    value
}
