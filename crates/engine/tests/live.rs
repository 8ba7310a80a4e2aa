//! Apply, roll back, query and run on live processes under Wine.
//!
//! Needs the mingw compiler, Wine and the Rust target x86_64-pc-windows-gnu. Where one is missing, the tests fail.
#![cfg(unix)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "figures")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use hotgraft_hotpatch::{EntryMethod, GuardedKind};
use object::read::pe::PeFile64;
use support::*;

const WINE: &str = "/usr/lib/wine/wine64";
const SERVER: &str = "/usr/lib/wine/wineserver64";
const COMPILER: &str = "x86_64-w64-mingw32-gcc";
const TARGET: &str = "x86_64-pc-windows-gnu";

/// A test that takes longer stands still: then the programs that it started are ended, and with them the test.
const LIMIT: Duration = Duration::from_secs(300);

/// Built programs and patches, and a Wine prefix.
struct Lab {
    folder: PathBuf,
    prefix: PathBuf,
}

static LAB: OnceLock<Lab> = OnceLock::new();
/// One test at a time: they measure pauses and look at all processes.
static TURN: Mutex<()> = Mutex::new(());

/// A test's turn. Whatever still runs under Wine after [`LIMIT`] is ended, so that a test that waits for it fails.
struct Turn {
    _alone: MutexGuard<'static, ()>,
    /// Dropped with the turn, which is what the watchdog waits for.
    _over: mpsc::Sender<()>,
}

fn lab() -> (&'static Lab, Turn) {
    let alone = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lab = LAB.get_or_init(Lab::new);
    let (over, wait) = mpsc::channel();
    thread::spawn(move || {
        if wait.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the test stands still for {} s: its programs are ended", LIMIT.as_secs());
            let _ = Command::new(SERVER).arg("-k").env("WINEPREFIX", &lab.prefix).status();
        }
    });
    (lab, Turn { _alone: alone, _over: over })
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Lab {
    fn new() -> Lab {
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
        for program in [COMPILER, WINE] {
            if !has(program) {
                panic!("{program} is missing: `cargo xtask setup` installs it");
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = temporary.join("live");
        fs::create_dir_all(&folder).unwrap();
        let mut service = Command::new(COMPILER);
        service.args(["-O1", "-g0", "-fpatchable-function-entry=6,6", "-fno-ident", "-o"]);
        service.arg(folder.join("service.exe")).arg(root.join("testdata/engine/service.c"));
        succeeds(&mut service);
        let mut random = Command::new(COMPILER);
        random.args(["-shared", "-O1", "-o"]).arg(folder.join("bcryptprimitives.dll"));
        random.arg(root.join("testdata/wine/bcryptprimitives.c")).arg("-ladvapi32");
        succeeds(&mut random);
        let mut live = Command::new(env!("CARGO"));
        live.args(["build", "-p", "hotgraft-engine", "--example", "live", "--target", TARGET]).current_dir(&root);
        live.arg("--target-dir").arg(temporary.parent().unwrap());
        succeeds(&mut live);
        let built = temporary.parent().unwrap().join(TARGET).join("debug/examples/live.exe");
        fs::copy(built, folder.join("live.exe")).unwrap();
        let lab = Lab { folder, prefix: temporary.join("wine") };
        // Else each test waits for the server to start and to stop.
        fs::create_dir_all(&lab.prefix).unwrap();
        let _ = Command::new(SERVER).arg("-p30").env("WINEPREFIX", &lab.prefix).status();
        lab.patches();
        lab
    }

    fn service_bytes(&self) -> Vec<u8> {
        fs::read(self.folder.join("service.exe")).unwrap()
    }

    fn patches(&self) {
        let base = self.service_bytes();
        let exports = Exports::of(&base);
        fs::write(self.folder.join("first.dll"), first_service(&base, &exports).build()).unwrap();
        fs::write(self.folder.join("second.dll"), second_service(&base, &exports).build()).unwrap();
        let mut quiet = PatchSpec::new(&base, "service.exe", 1, vec![hold(&exports)]);
        quiet.guarded = Vec::new();
        fs::write(self.folder.join("hold.dll"), quiet.build()).unwrap();
        let outer = PatchSpec::new(&base, "service.exe", 1, vec![outer(&exports)]);
        fs::write(self.folder.join("outer.dll"), outer.build()).unwrap();
    }

    fn wine(&self, program: &str) -> Command {
        let mut command = Command::new(WINE);
        command
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("WINEDLLOVERRIDES", "mscoree,mshtml,winedbg.exe=");
        command.current_dir(&self.folder).arg(program);
        command
    }

    fn live(&self, arguments: &[&str]) -> Output {
        self.wine("live.exe").args(arguments).output().unwrap()
    }

    /// Run `live`, which must succeed; what it says.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.live(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Run `live`, which must refuse; its reason.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.live(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn service(&self, threads: u32) -> Service {
        self.start(&[&threads.to_string()])
    }

    fn start(&self, arguments: &[&str]) -> Service {
        let mut command = self.wine("service.exe");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut service = Service {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            pid: String::new(),
        };
        let ready = service.line();
        assert!(ready.ends_with("answer 11 twice 20"), "{ready}");
        service.pid = ready.split(' ').nth(1).unwrap().to_owned();
        service
    }
}

/// A running service.
struct Service {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pid: String,
}

impl Service {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        self.line()
    }

    /// It must end by itself, with its own code, and no wrong answer.
    fn end(mut self) {
        assert_eq!(self.ask("q"), "wrong 0");
        assert_eq!(self.child.wait().unwrap().code(), Some(7));
    }

    fn number(&mut self, name: &str) -> i64 {
        let answer = self.ask("c");
        let words: Vec<&str> = answer.split(' ').collect();
        let at = words.iter().position(|word| *word == name).unwrap_or_else(|| panic!("{answer}"));
        words[at + 1].parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exported functions and variables.
struct Exports(Vec<(String, u32)>);

impl Exports {
    fn of(file: &[u8]) -> Exports {
        let table = PeFile64::parse(file).unwrap().export_table().unwrap().unwrap();
        let name_of = |pointer| String::from_utf8_lossy(table.name_from_pointer(pointer).unwrap()).into_owned();
        let named = table.name_iter().map(|(name, index)| (name_of(name), table.address_by_index(index).unwrap()));
        Exports(named.collect())
    }

    fn rva(&self, name: &str) -> u32 {
        self.0.iter().find(|export| export.0 == name).unwrap_or_else(|| panic!("{name} is not exported")).1
    }
}

/// `answer` gives one more than before, counts in the base's `hits` and calls an import of its own.
fn answer(exports: &Exports) -> Replacement {
    let mut code = vec![0x53, 0x48, 0x83, 0xec, 0x20]; // push rbx; sub rsp, 32
    code.extend([0x89, 0xcb]); // mov ebx, ecx
    code.extend([0xff, 0x15, 0, 0, 0, 0]); // call [import]
    code.extend([0xf0, 0xff, 0x05, 0, 0, 0, 0]); // lock inc dword [hits]
    code.extend([0x8d, 0x43, 0x02]); // lea eax, [rbx + 2]
    code.extend([0x48, 0x83, 0xc4, 0x20, 0x5b, 0xc3]); // add rsp, 32; pop rbx; ret
    let mut replacement = Replacement::new("answer", exports.rva("answer"), EntryMethod::PaddedShortJump, &code);
    replacement.base_size = 10;
    replacement.import_fields = vec![(9, 0)];
    replacement.near = vec![(16, exports.rva("hits"))];
    replacement.unwind = vec![1, 5, 2, 0, 5, 0x32, 1, 0x30];
    replacement
}

fn first_service(base: &[u8], exports: &Exports) -> PatchSpec {
    let mut spec = PatchSpec::new(base, "service.exe", 1, vec![answer(exports)]);
    spec.imports = Some(("kernel32.dll", vec!["GetCurrentProcessId"]));
    spec.guarded = vec![(exports.rva("answer"), 10, GuardedKind::Replaced, "answer")];
    spec
}

/// The successor: `twice` gives three times the value as well, written over its first five bytes.
fn second_service(base: &[u8], exports: &Exports) -> PatchSpec {
    let mut spec = first_service(base, exports);
    spec.sequence = 2;
    // lea eax, [rcx + rcx * 2]; ret
    let mut twice = Replacement::new("twice", exports.rva("twice"), EntryMethod::NearJump, &[0x8d, 0x04, 0x49, 0xc3]);
    twice.base_size = 10;
    spec.replacements.push(twice);
    // An import from a DLL that the service has not loaded.
    spec.imports = Some(("version.dll", vec!["GetFileVersionInfoSizeW"]));
    spec.replacements[0] = plain_answer(exports);
    spec
}

fn plain_answer(exports: &Exports) -> Replacement {
    let mut code = vec![0xf0, 0xff, 0x05, 0, 0, 0, 0];
    code.extend([0x8d, 0x41, 0x02, 0xc3]); // lea eax, [rcx + 2]; ret
    let mut replacement = Replacement::new("answer", exports.rva("answer"), EntryMethod::PaddedShortJump, &code);
    replacement.base_size = 10;
    replacement.near = vec![(3, exports.rva("hits"))];
    replacement
}

fn hold(exports: &Exports) -> Replacement {
    let mut hold = Replacement::new("hold", exports.rva("hold"), EntryMethod::PaddedShortJump, &[0x89, 0xc8, 0xc3]);
    hold.base_size = 48;
    hold.quiesce = true;
    hold
}

/// `outer` asks `depth` of the base, which walks the stack through the patch.
fn outer(exports: &Exports) -> Replacement {
    // sub rsp, 40; call depth; add rsp, 40; ret
    let code = [0x48, 0x83, 0xec, 0x28, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x28, 0xc3];
    let mut outer = Replacement::new("outer", exports.rva("outer"), EntryMethod::PaddedShortJump, &code);
    outer.base_size = 12;
    outer.near = vec![(5, exports.rva("depth"))];
    outer.unwind = vec![1, 4, 1, 0, 4, 0x42, 0, 0];
    outer
}

#[test]
fn the_stack_is_walked_through_the_patch() {
    let (lab, _turn) = lab();
    let mut service = lab.service(1);
    let pid = service.pid.clone();
    assert_eq!(service.ask("o"), "outer -1");
    lab.ok(&["apply", &pid, "outer.dll"]);
    // depth, outer in the patch, main.
    assert_eq!(service.ask("o"), "outer 2");
    lab.ok(&["rollback", &pid, "outer.dll"]);
    assert_eq!(service.ask("o"), "outer -1");
    service.end();
}

#[test]
fn a_live_hook_of_somebody_else_is_named_and_stays() {
    let (lab, _turn) = lab();
    let mut service = lab.service(0);
    let pid = service.pid.clone();
    assert_eq!(service.ask("x"), "hooked");
    assert_eq!(service.ask("a"), "answer 20 twice 20");
    let said = lab.refused(&["apply", &pid, "first.dll"]);
    assert!(said.contains("entry of answer") && said.contains("leads to service.exe+"), "{said}");
    assert!(lab.ok(&["assess", &pid, "first.dll"]).contains(r#""state":"foreign_hook""#));
    assert_eq!(service.ask("a"), "answer 20 twice 20");
    service.end();
}

#[test]
fn a_held_loader_lock_delays_nobody_but_the_patch() {
    let (lab, _turn) = lab();
    let mut service = lab.service(2);
    let pid = service.pid.clone();
    assert_eq!(service.ask("k"), "held");
    let said = lab.refused(&["apply", &pid, "first.dll"]);
    assert!(said.contains("loader lock"), "{said}");
    assert!(service.number("total") > 0);
    assert_eq!(service.ask("a"), "answer 11 twice 20");
    assert_eq!(service.ask("l"), "let go");
    lab.ok(&["apply", &pid, "first.dll"]);
    assert_eq!(service.ask("a"), "answer 12 twice 20");
    service.end();
}

#[test]
fn a_service_under_load_is_patched_and_rolled_back() {
    let (lab, _turn) = lab();
    let mut service = lab.service(8);
    let pid = service.pid.clone();
    assert_eq!(service.number("hits"), 0);
    let said = lab.ok(&["apply", &pid, "first.dll"]);
    assert!(said.starts_with("applied 1 "), "{said}");
    assert_eq!(service.ask("a"), "answer 12 twice 20");
    assert!(service.number("hits") > 0);
    let status = lab.ok(&["status", &pid]);
    assert!(status.contains(r#""active":1,"state":"applied""#), "{status}");
    assert!(status.contains(r#""name":"answer""#) && status.contains("KB5000001"), "{status}");

    let said = lab.refused(&["apply", &pid, "first.dll"]);
    assert!(said.contains("already applied"), "{said}");
    lab.ok(&["rollback", &pid, "first.dll"]);
    assert_eq!(service.ask("a"), "answer 11 twice 20");
    let hits = service.number("hits");
    assert_eq!(service.number("hits"), hits);
    let status = lab.ok(&["status", &pid]);
    assert!(status.contains(r#""active":null,"state":"reverted""#), "{status}");
    assert!(lab.ok(&["assess", &pid, "second.dll"]).contains(r#""state":"applicable""#));
    service.end();
}

#[test]
fn a_successor_replaces_its_predecessor_on_a_live_process() {
    let (lab, _turn) = lab();
    let mut service = lab.service(4);
    let pid = service.pid.clone();
    lab.ok(&["apply", &pid, "first.dll"]);
    let said = lab.ok(&["apply", &pid, "second.dll"]);
    assert!(said.contains("superseded Some(1)"), "{said}");
    assert_eq!(service.ask("a"), "answer 12 twice 30");
    let status = lab.ok(&["status", &pid]);
    assert!(status.contains(r#""active":2"#) && status.contains(r#""state":"superseded""#), "{status}");
    let said = lab.refused(&["apply", &pid, "first.dll"]);
    assert!(said.contains("older than"), "{said}");
    lab.ok(&["rollback", &pid, "second.dll", "2"]);
    assert_eq!(service.ask("a"), "answer 12 twice 20");
    let said = lab.ok(&["apply", &pid, "second.dll"]);
    assert!(said.contains("reused true"), "{said}");
    lab.ok(&["rollback", &pid, "second.dll"]);
    assert_eq!(service.ask("a"), "answer 11 twice 20");
    service.end();
}

#[test]
fn a_killed_hotgraft_leaves_the_service_running_as_before_or_as_after() {
    let (lab, _turn) = lab();
    let phases: Vec<&str> = hotgraft_engine::Phase::ALL.iter().map(|phase| phase.name()).chain(["resume"]).collect();
    for phase in phases {
        let mut service = lab.service(4);
        let pid = service.pid.clone();
        let output =
            lab.wine("live.exe").args(["apply", &pid, "first.dll"]).env("HOTGRAFT_KILL", phase).output().unwrap();
        assert!(!output.status.success(), "{phase}: it was to be killed");
        // It goes on, and quickly: nothing stays suspended.
        let expected = if phase == "resume" { "answer 12 twice 20" } else { "answer 11 twice 20" };
        assert_eq!(service.ask("a"), expected, "{phase}");
        assert!(service.number("total") > 0, "{phase}: threads stand still");
        if phase != "resume" {
            lab.ok(&["apply", &pid, "first.dll"]);
            assert_eq!(service.ask("a"), "answer 12 twice 20", "{phase}");
        }
        // Killed while rolling back.
        if ["check-identity", "suspend", "check-threads", "commit", "resume"].contains(&phase) {
            let mut rollback = lab.wine("live.exe");
            rollback.args(["rollback", &pid, "first.dll"]).env("HOTGRAFT_KILL", phase);
            assert!(!rollback.output().unwrap().status.success(), "{phase}");
            let expected = if phase == "resume" { "answer 11 twice 20" } else { "answer 12 twice 20" };
            assert_eq!(service.ask("a"), expected, "{phase}");
            assert!(service.number("total") > 0, "{phase}: threads stand still");
        }
        service.end();
    }
}

#[test]
fn stopping_at_any_phase_changes_nothing() {
    let (lab, _turn) = lab();
    let mut service = lab.service(2);
    let pid = service.pid.clone();
    for phase in hotgraft_engine::Phase::ALL {
        let mut stop = lab.wine("live.exe");
        stop.args(["apply", &pid, "second.dll"]).env("HOTGRAFT_STOP", phase.name());
        let output = stop.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("stopped before {}", phase.name())), "{said}");
        assert_eq!(service.ask("a"), "answer 11 twice 20", "{phase:?}");
        assert_eq!(lab.ok(&["status", &pid]).trim(), "[]", "{phase:?}");
    }
    service.end();
}

#[test]
fn a_thread_in_a_function_that_must_be_empty_is_named() {
    let (lab, _turn) = lab();
    let mut service = lab.service(2);
    let pid = service.pid.clone();
    assert_eq!(service.ask("h"), "held");
    let said = lab.refused(&["apply", &pid, "hold.dll"]);
    assert!(said.contains("is in hold") && said.contains("gave up after"), "{said}");
    assert!(service.number("total") > 0);
    assert_eq!(service.ask("l"), "let go");
    lab.ok(&["apply", &pid, "hold.dll"]);
    service.end();
}

#[test]
fn run_patches_before_the_program_begins_and_passes_its_exit_code_on() {
    let (lab, _turn) = lab();
    let mut command = lab.wine("live.exe");
    command.args(["run", "first.dll", "service.exe", "3"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.trim_end().ends_with("answer 12 twice 20"), "{line}");
    writeln!(input, "q").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_patch_for_another_build_is_refused() {
    let (lab, _turn) = lab();
    let mut other = lab.service_bytes();
    let stamp = u32::from_le_bytes(other[0x3c..0x40].try_into().unwrap()) as usize + 8;
    other[stamp] ^= 1;
    let exports = Exports::of(&other);
    fs::write(lab.folder.join("other.dll"), first_service(&other, &exports).build()).unwrap();
    let mut service = lab.service(2);
    let pid = service.pid.clone();
    let said = lab.refused(&["apply", &pid, "other.dll"]);
    assert!(said.contains("TimeDateStamp"), "{said}");
    assert_eq!(service.ask("a"), "answer 11 twice 20");
    service.end();
}

/// Cycles of the load test; more with HOTGRAFT_CYCLES.
fn cycles() -> u32 {
    std::env::var("HOTGRAFT_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(25)
}

fn cycle(lab: &Lab, arguments: &[&str]) {
    let mut service = lab.start(arguments);
    let pid = service.pid.clone();
    let said = lab.ok(&["cycle", &pid, &cycles().to_string(), "first.dll", "second.dll"]);
    let mut pauses: Vec<u64> = said.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(pauses.len() as u32, cycles() * 3);
    pauses.sort_unstable();
    let at = |share: usize| pauses[(pauses.len() - 1) * share / 100];
    println!("{arguments:?}: {} transitions, pause in microseconds: median {}, 99th {}", pauses.len(), at(50), at(99));
    assert_eq!(service.ask("a"), "answer 11 twice 20");
    assert!(service.number("total") > 0);
    service.end();
}

#[test]
fn cycles_while_all_threads_spin_lose_no_answer() {
    let (lab, _turn) = lab();
    cycle(lab, &["8"]);
}

#[test]
fn cycles_on_a_server_that_waits_for_requests_lose_no_answer() {
    let (lab, _turn) = lab();
    cycle(lab, &["8", "paced"]);
}
