//! `hotgraft sign` and `hotgraft verify` as programs: every kind of key and of work, held against independent tools.

#[path = "../../signer/tests/common/mod.rs"]
mod common;

use common::pe::{self, Shape};
use common::pki::{Entity, Key, SERVER_AUTH, Template};
use common::tools::{must, run, text};
use common::{forge, tsa};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;

/// A folder with a PE file, a publisher under a root, and the command.
struct Desk {
    folder: tempfile::TempDir,
    root: Entity,
    leaf: Entity,
}

impl Desk {
    fn new(key: Key) -> Desk {
        let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
        let leaf = Entity::issue(Template::leaf("Publisher"), key, Some(&root));
        let desk = Desk { folder: tempfile::tempdir().unwrap(), root, leaf };
        desk.write("root.pem", desk.root.pem());
        desk.write("key.pem", desk.leaf.key.pem());
        desk.write("chain.pem", desk.leaf.pem() + &desk.root.pem());
        desk.write("plain.exe", Shape::default().build());
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotgraft"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs in the folder; arguments are parted by spaces.
    fn hotgraft(&self, arguments: &str) -> Output {
        finish(&mut self.command(arguments))
    }

    fn done(&self, arguments: &str) -> String {
        let output = self.hotgraft(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", said(&output));
        said(&output)
    }

    /// Must fail with this exit code, say this, and leave no file `out`.
    fn fails(&self, arguments: &str, code: i32, message: &str) {
        let output = self.hotgraft(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {}", said(&output));
        assert!(said(&output).contains(message), "{arguments}: {}", said(&output));
        assert!(!self.path("out").exists(), "{arguments}: something was written");
    }

    fn verify(&self, arguments: &str) -> (i32, Value) {
        let output = self.hotgraft(&format!("verify {arguments} --format json"));
        let value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments}: {e}: {}", said(&output)));
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schemas/verify.json");
        let schema: Value = serde_json::from_slice(&std::fs::read(schema).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{arguments}: {errors:?}");
        (output.status.code().unwrap(), value)
    }

    /// Everybody accepts it: we, osslsigncode, and where it reads the digest, sbverify.
    fn accepted(&self, name: &str) -> Value {
        let (code, report) = self.verify(&format!("{name} --trust root.pem"));
        assert_eq!(code, 0, "{name}: {report:#}");
        assert_eq!(pe::checksum(&self.read(name)), pe::get32(&self.read(name), pe::CHECKSUM));
        let root = self.path("root.pem");
        let file = self.path(name);
        let (ok, log) = run("osslsigncode", &["verify", "-CAfile", text(&root), "-ignore-cdp", "-in", text(&file)]);
        assert!(ok && log.contains("Succeeded"), "{name}: {log}");
        if report["signature"]["signatures"][0]["digest_algorithm"] == "SHA-256" {
            let (ok, log) = run("sbverify", &["--cert", text(&root), text(&file)]);
            assert!(ok, "{name}: {log}");
        }
        report
    }
}

fn finish(command: &mut Command) -> Output {
    let output = command.output().expect("hotgraft runs");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{}", said(&output));
    output
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const PEM: &str = "--key key.pem --cert chain.pem";

#[test]
fn keys_in_files_and_where_passwords_come_from() {
    for key in [Key::rsa(2048, 0), Key::p256(2), Key::p384(2)] {
        let desk = Desk::new(key);
        desk.done(&format!("sign plain.exe -o signed.exe {PEM}"));
        desk.accepted("signed.exe");
        let reference = desk.read("signed.exe");
        let same = |arguments: &str| {
            desk.done(&format!("sign plain.exe -o again.exe {arguments}"));
            assert_eq!(desk.read("again.exe"), reference, "{arguments}");
        };
        same(PEM);

        let path = |name: &str| desk.path(name);
        let (key, chain) = (path("key.pem"), path("chain.pem"));
        let locked = path("locked.pem");
        must("openssl", &["pkcs8", "-topk8", "-passout", "pass:s e cret", "-in", text(&key), "-out", text(&locked)]);
        let pfx = path("key.pfx");
        let files = ["-inkey", text(&key), "-in", text(&chain), "-out", text(&pfx)];
        must("openssl", &[&["pkcs12", "-export", "-passout", "pass:s e cret"], &files[..]].concat());
        desk.write("password", "s e cret\nnot this\n");
        desk.write("wrong", "secret\n");
        for source in ["--key locked.pem --cert chain.pem", "--pfx key.pfx"] {
            same(&format!("{source} --password-file password"));
            let arguments = format!("sign plain.exe -o again.exe {source}");
            let from_variable = finish(
                desk.command(&format!("{arguments} --password-env SIGN_PASSWORD")).env("SIGN_PASSWORD", "s e cret"),
            );
            assert_eq!(from_variable.status.code(), Some(0), "{}", said(&from_variable));
            assert_eq!(desk.read("again.exe"), reference);
            let asked_for = finish(desk.command(&arguments).args(["--password", "s e cret"]));
            assert_eq!(asked_for.status.code(), Some(0), "{}", said(&asked_for));

            // On a terminal, without echo.
            let _ = std::fs::remove_file(path("again.exe"));
            let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_hotgraft"));
            let mut terminal = Command::new("script");
            terminal.args(["-qec", &line, "/dev/null"]).current_dir(desk.folder.path());
            terminal.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut terminal = terminal.spawn().expect("script (util-linux) is needed for this test");
            let mut typing = terminal.stdin.take().unwrap();
            // What is typed before the question would be echoed, or flushed away.
            std::thread::sleep(std::time::Duration::from_millis(700));
            typing.write_all(b"s e cret\n").unwrap();
            let output = terminal.wait_with_output().unwrap();
            drop(typing);
            assert!(said(&output).contains("Password of") && !said(&output).contains("s e cret"), "{}", said(&output));
            assert_eq!(desk.read("again.exe"), reference);

            let out = format!("sign plain.exe -o out {source}");
            desk.fails(&format!("{out} --password-file wrong"), 2, "password does not open");
            desk.fails(&out, 2, "a password is needed");
            desk.fails(&format!("{out} --password-env NOT_SET_ANYWHERE"), 2, "NOT_SET_ANYWHERE is not set");
        }
        desk.fails("sign plain.exe -o out", 2, "no key was given");
        desk.fails("sign plain.exe -o out --key key.pem --cert root.pem", 2, "does not belong to the key");
        desk.fails("sign plain.exe -o out --key key.pem", 2, "--cert");
        desk.fails("sign key.pem -o out --key key.pem --cert chain.pem", 2, "key.pem");
        desk.fails("sign plain.exe -o out --remove --key key.pem --cert chain.pem", 2, "cannot be used with");

        // Through pipes, and in place.
        let mut piped = desk.command(&format!("sign - -o - {PEM}"));
        piped.stdin(std::fs::File::open(path("plain.exe")).unwrap());
        assert_eq!(finish(&mut piped).stdout, reference);
        desk.write("place.exe", desk.read("plain.exe"));
        desk.done(&format!("sign place.exe -o place.exe {PEM}"));
        assert_eq!(desk.read("place.exe"), reference);
        let said = desk.done(&format!("sign place.exe -o place.exe {PEM}"));
        assert!(said.contains("in the place of the signature"), "{said}");
        assert_eq!(desk.read("place.exe"), reference);
    }
}

#[test]
fn a_key_in_a_token() {
    let modules = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let module = modules.iter().find(|m| Path::new(m).exists()).expect("SoftHSM2 is needed for this test");
    for key in [Key::rsa(2048, 0), Key::p256(2)] {
        let rsa = matches!(key, Key::Rsa(_));
        let desk = Desk::new(key);
        std::fs::create_dir(desk.path("tokens")).unwrap();
        let configuration = desk.write(
            "softhsm2.conf",
            format!("directories.tokendir = {}\nobjectstore.backend = file\n", text(&desk.path("tokens"))),
        );
        for arguments in [
            "--init-token --free --label demo --pin 1234 --so-pin 5678",
            "--import key.pem --token demo --label leaf --id 01 --pin 1234",
        ] {
            let mut tool = Command::new("softhsm2-util");
            tool.args(arguments.split_whitespace()).current_dir(desk.folder.path());
            let output = tool.env("SOFTHSM2_CONF", &configuration).output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
        }
        let sign = |arguments: &str, pin: &str| {
            let mut command = desk.command(&format!("sign plain.exe --cert chain.pem --password-env PIN {arguments}"));
            finish(command.env("SOFTHSM2_CONF", &configuration).env("PIN", pin))
        };
        let with_module = format!("-o token.exe --pkcs11 pkcs11:token=demo;object=leaf --pkcs11-module {module}");
        for arguments in [&with_module, &format!("-o token.exe --pkcs11 pkcs11:token=demo;id=%01?module-path={module}")]
        {
            let output = sign(arguments, "1234");
            assert_eq!(output.status.code(), Some(0), "{}", said(&output));
            desk.accepted("token.exe");
        }
        if rsa {
            desk.done(&format!("sign plain.exe -o file.exe {PEM}"));
            assert_eq!(desk.read("token.exe"), desk.read("file.exe"), "the same key, the same bytes");
        }
        for (arguments, pin, message) in [
            (with_module.as_str(), "4321", "password does not open"),
            ("-o out --pkcs11 pkcs11:token=demo;object=leaf", "1234", "module-path"),
            ("-o out --pkcs11 pkcs11:token=demo --pkcs11-module /nowhere/lib.so", "1234", "/nowhere/lib.so"),
        ] {
            let output = sign(&arguments.replace("token.exe", "out"), pin);
            assert_eq!(output.status.code(), Some(2), "{}", said(&output));
            assert!(said(&output).contains(message), "{}", said(&output));
        }
        let other = sign(&with_module.replace("object=leaf", "object=other").replace("token.exe", "out"), "1234");
        assert!(said(&other).contains("leads to 0 private keys"), "{}", said(&other));
        assert!(!desk.path("out").exists());
    }
}

#[test]
fn two_halves() {
    for (key, rsa) in [(Key::rsa(2048, 0), true), (Key::p384(2), false)] {
        let desk = Desk::new(key);
        let options = "--page-hashes --description Demo --url https://example.test/ --digest sha384";
        desk.done(&format!("sign plain.exe -o whole.exe {PEM} {options}"));
        let note = desk.done(&format!("sign plain.exe --hash-only message {options}"));
        let digest = must("openssl", &["dgst", "-sha384", "-r", text(&desk.path("message"))]);
        assert!(note.contains(digest.split(' ').next().unwrap()), "{note}");
        let (key, message, signature) = (desk.path("key.pem"), desk.path("message"), desk.path("signature"));
        must("openssl", &["dgst", "-sha384", "-sign", text(&key), "-out", text(&signature), text(&message)]);
        desk.done(&format!("sign plain.exe -o halves.exe --attach signature --cert chain.pem {options}"));
        desk.accepted("halves.exe");
        if rsa {
            assert_eq!(desk.read("halves.exe"), desk.read("whole.exe"));
        }
        // Other options, another certificate, a changed signature.
        desk.fails("sign plain.exe -o out --attach signature --cert chain.pem", 2, "does not verify");
        desk.fails(
            &format!("sign plain.exe -o out --attach signature --cert root.pem {options}"),
            2,
            "does not verify",
        );

        // A finished PKCS#7 from elsewhere; of another file it is refused.
        let (input, output) = (desk.path("plain.exe"), desk.path("theirs.exe"));
        let chain = desk.path("chain.pem");
        must(
            "osslsigncode",
            &[
                "sign",
                "-certs",
                text(&chain),
                "-key",
                text(&key),
                "-h",
                "sha256",
                "-in",
                text(&input),
                "-out",
                text(&output),
            ],
        );
        desk.done("sign theirs.exe --extract their.p7");
        must("openssl", &["pkcs7", "-inform", "DER", "-in", text(&desk.path("their.p7")), "-noout", "-print_certs"]);
        desk.done("sign plain.exe -o attached.exe --attach their.p7");
        desk.accepted("attached.exe");
        desk.write("other.exe", Shape { overlay: 9, ..Shape::default() }.build());
        desk.fails("sign other.exe -o out --attach their.p7", 2, "digest");
    }
}

#[test]
fn what_is_stated_is_read_by_everybody() {
    let mut combinations = 0;
    let shapes = [
        Shape::default(),
        Shape { plus: false, overlay: 3, ..Shape::default() },
        Shape { overlay: 13, checksum: false, ..Shape::default() },
    ];
    for key in [Key::rsa(2048, 0), Key::p256(2), Key::p384(2)] {
        let desk = Desk::new(key);
        for shape in &shapes {
            desk.write("plain.exe", shape.build());
            for digest in ["sha256", "sha384", "sha512"] {
                for extra in ["", "--page-hashes", "--description Demo --url https://example.test/"] {
                    desk.done(&format!("sign plain.exe -o signed.exe {PEM} --digest {digest} {extra}"));
                    let report = desk.accepted("signed.exe");
                    let one = &report["signature"]["signatures"][0];
                    assert_eq!(one["page_hashes"], extra == "--page-hashes");
                    assert_eq!(
                        one["description"],
                        if extra.contains("Demo") { Value::from("Demo") } else { Value::Null }
                    );
                    assert_eq!(one["url"].is_string(), extra.contains("--url"));
                    assert_eq!(report["signature"]["overlay"], shape.build().len().next_multiple_of(8) - 0x3c00);
                    combinations += 1;
                }
            }
        }
    }
    println!(
        "{combinations} combinations of key, file, digest and option accepted by hotgraft, osslsigncode and sbverify"
    );
    assert_eq!(combinations, 81);
}

#[test]
fn append_replace_remove() {
    let desk = Desk::new(Key::rsa(2048, 0));
    let other_root = Entity::issue(Template::root("Other Root"), Key::p256(7), None);
    let other = Entity::issue(Template::leaf("Other"), Key::p256(8), Some(&other_root));
    desk.write("other-root.pem", other_root.pem());
    desk.write("other.pem", other.key.pem());
    desk.write("other-chain.pem", other.pem() + &other_root.pem());
    const OTHER: &str = "--key other.pem --cert other-chain.pem";
    desk.done(&format!("sign plain.exe -o one.exe {PEM}"));
    desk.done(&format!("sign one.exe -o two.exe {OTHER} --append"));
    desk.done(&format!("sign two.exe -o three.exe {OTHER} --append --page-hashes"));
    desk.accepted("three.exe");
    for (root, accepted, faults) in [("root.pem", 0, [false, true, true]), ("other-root.pem", 1, [true, false, false])]
    {
        let (code, report) = desk.verify(&format!("three.exe --trust {root}"));
        assert_eq!(code, 0);
        assert_eq!(report["signature"]["accepted"], accepted);
        let signatures = report["signature"]["signatures"].as_array().unwrap();
        let found: Vec<bool> = signatures.iter().map(|s| s["fault"].is_object()).collect();
        assert_eq!(found, faults, "{report:#}");
        assert_eq!(signatures.iter().map(|s| s["nested"] == true).collect::<Vec<_>>(), [false, true, true]);
    }
    // A changed byte: all three are reported, each with its fault.
    let mut bytes = desk.read("three.exe");
    bytes[0x500] ^= 1;
    desk.write("changed.exe", &bytes);
    let (code, report) = desk.verify("changed.exe --trust root.pem");
    assert_eq!(code, 1);
    let signatures = report["signature"]["signatures"].as_array().unwrap();
    assert_eq!(signatures.len(), 3);
    assert!(signatures.iter().all(|s| s["fault"]["reason"] == "digest_mismatch"), "{report:#}");
    let unreached = report["signature"]["not_checked"].as_array().unwrap();
    assert!(
        unreached.iter().any(|t| t.as_str().unwrap().starts_with("path to a given root: signatures")),
        "{report:#}"
    );

    desk.done(&format!("sign three.exe -o replaced.exe {PEM} --replace"));
    assert_eq!(desk.read("replaced.exe"), desk.read("one.exe"));
    desk.done("sign three.exe -o removed.exe --remove");
    assert_eq!(desk.read("removed.exe"), desk.read("plain.exe"), "byte for byte");
    desk.fails("sign plain.exe -o out --remove", 2, "no signature");
    desk.fails("sign plain.exe --extract out", 2, "no signature");
    let text = desk.done("verify three.exe --trust root.pem");
    for part in [
        "checked: certificate table",
        "not checked: page hashes",
        "not checked: revocation",
        "nested signature",
        "CN=Other",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn timestamps() {
    let desk = Desk::new(Key::p256(2));
    let tsa_root = Entity::issue(Template::root("TSA Root"), Key::rsa(2048, 1), None);
    let authority = Entity::issue(Template::tsa("TSA"), Key::rsa(2048, 2), Some(&tsa_root));
    tsa::set_up(desk.folder.path(), &authority, &tsa_root);
    let folder = desk.folder.path().to_owned();
    let (url, asked) = tsa::serve(move |_, query| tsa::ok(&tsa::reply(&folder, &query)));
    let (broken, tries) = tsa::serve(|_, _| b"HTTP/1.1 503 busy\r\n\r\n".to_vec());
    let folder = desk.folder.path().to_owned();
    let (late, _) = tsa::serve(move |index, query| match index {
        0 => b"HTTP/1.1 503 busy\r\n\r\n".to_vec(),
        _ => tsa::ok(&tsa::reply(&folder, &query)),
    });
    const TRUST: &str = "--trust root.pem --timestamp-trust tsaroot.pem --require-timestamp";

    // The second server when the first does not answer; the same one again; later.
    desk.done(&format!("sign plain.exe -o in-turn.exe {PEM} --timestamp {broken} --timestamp {url}"));
    assert_eq!((tries.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)), (1, 1));
    desk.done(&format!("sign plain.exe -o again.exe {PEM} --timestamp {late} --timestamp-attempts 2"));
    desk.done(&format!("sign plain.exe -o without.exe {PEM}"));
    desk.done(&format!("sign without.exe -o later.exe --timestamp-only --timestamp {url} --timestamp-digest sha512"));
    for name in ["in-turn.exe", "again.exe", "later.exe"] {
        let (code, report) = desk.verify(&format!("{name} {TRUST} --at 2055-01-01"));
        assert_eq!(code, 0, "{name}: {report:#}");
        let stamp = &report["signature"]["signatures"][0]["timestamp"];
        assert_eq!(stamp["signer"]["subject"], "CN=TSA,O=Example Org");
        assert_eq!(stamp["fault"], Value::Null);
        let (root, tsa_root, file) = (desk.path("root.pem"), desk.path("tsaroot.pem"), desk.path(name));
        let arguments =
            ["verify", "-CAfile", text(&root), "-TSA-CAfile", text(&tsa_root), "-ignore-cdp", "-in", text(&file)];
        let (ok, log) = run("osslsigncode", &arguments);
        assert!(
            ok && log.contains("Succeeded") && !log.contains("Timestamp Server Signature verification: failed"),
            "{log}"
        );
        // Without its root the time is not believed.
        let (code, report) = desk.verify(&format!("{name} --trust root.pem --require-timestamp"));
        assert_eq!((code, &report["signature"]["fault"]["reason"]), (1, &Value::from("timestamp_missing")));
    }
    let (code, report) = desk.verify(&format!("without.exe {TRUST}"));
    assert_eq!((code, &report["signature"]["fault"]["reason"]), (1, &Value::from("timestamp_missing")));
    let (code, report) = desk.verify("without.exe --trust root.pem --at 2055-01-01");
    assert_eq!((code, &report["signature"]["fault"]["reason"]), (1, &Value::from("expired")));

    // None answers: nothing is written.
    tries.store(0, Ordering::SeqCst);
    desk.fails(&format!("sign plain.exe -o out {PEM} --timestamp {broken} --timestamp-attempts 2"), 2, "no timestamp");
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    desk.fails(&format!("sign later.exe -o out --timestamp-only --timestamp {url}"), 2, "has a timestamp already");
    desk.fails(&format!("sign plain.exe -o out --timestamp-only --timestamp {url}"), 2, "no signature");
    desk.fails("sign without.exe -o out --timestamp-only", 2, "--timestamp <URL>");
}

#[test]
fn trust_by_option_and_by_policy_file() {
    let desk = Desk::new(Key::p256(2));
    desk.done(&format!("sign plain.exe -o signed.exe {PEM}"));
    let sha256 = must("sha256sum", &[text(&desk.path("signed.exe"))])[..64].to_owned();
    let (_, report) = desk.verify("signed.exe --trust root.pem");
    assert_eq!(report["sha256"], sha256.as_str());
    let leaf = report["signature"]["signatures"][0]["signer"]["sha256"].as_str().unwrap().to_owned();
    let sha1 = report["signature"]["signatures"][0]["signer"]["sha1"].as_str().unwrap().to_owned();
    let digest = report["signature"]["signatures"][0]["digest"].as_str().unwrap().to_owned();

    let serial = desk.leaf.template.serial;
    desk.write("good.crl", desk.root.crl("261101000000Z", "361101000000Z", &[(serial + 1, "261001000000Z", Some(1))]));
    desk.write(
        "revoked.crl",
        common::der::pem(
            "X509 CRL",
            &desk.root.crl("261101000000Z", "361101000000Z", &[(serial, "261001000000Z", Some(1))]),
        ),
    );
    for (name, line) in [("file", &sha256), ("digest", &digest), ("leaf", &leaf), ("sha1", &sha1)] {
        desk.write(&format!("{name}.deny"), format!("# not these\n{line}  # ours\n"));
    }
    desk.write("other.deny", format!("{}\n", "ab".repeat(32)));
    desk.write("bad.deny", "xyz\n");
    desk.write("nobody.pem", Entity::issue(Template::root("Nobody"), Key::p256(9), None).pem());
    let policy = |name: &str, lines: &str| {
        desk.write(name, format!("schema = \"hotgraft.policy/1\"\nroots = [\"root.pem\"]\n{lines}\n"));
    };
    policy("plain.toml", "");
    policy("publisher.toml", "[[publisher]]\ncommon_name = \"Publisher\"");
    policy("other-publisher.toml", "[[publisher]]\ncommon_name = \"Somebody\"");
    policy("eku.toml", "required_eku = [\"codeSigning\", \"1.2.3.4\"]");
    policy("denied.toml", &format!("denied_files = [\"{sha256}\"]"));
    policy("revoked.toml", "revocation_lists = [\"revoked.crl\"]");
    policy("stamped.toml", "timestamp_required = true");
    policy("provenance.toml", "provenance_required = true");
    policy("misspelt.toml", "timestamp_reqired = true");

    for arguments in [
        "--trust root.pem",
        "--trust root.pem --crl good.crl --require-revocation",
        "--trust root.pem --deny other.deny --publisher Publisher --publisher Somebody",
        "--policy plain.toml --crl good.crl",
        "--policy publisher.toml --publisher Publisher",
    ] {
        let output = desk.hotgraft(&format!("verify signed.exe {arguments}"));
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", said(&output));
    }
    for (arguments, reason) in [
        ("--trust nobody.pem", "untrusted"),
        ("--trust root.pem --crl revoked.crl", "revoked"),
        ("--trust root.pem --require-revocation", "revocation_unknown"),
        ("--trust root.pem --deny file.deny", "denied_file"),
        ("--trust root.pem --deny digest.deny", "denied_file"),
        ("--trust root.pem --deny leaf.deny", "denied_certificate"),
        ("--trust root.pem --deny other.deny --deny sha1.deny", "denied_certificate"),
        ("--trust root.pem --publisher Somebody", "wrong_publisher"),
        ("--trust root.pem --require-timestamp", "timestamp_missing"),
        ("--trust root.pem --at 2019-01-01", "not_yet_valid"),
        ("--trust root.pem --at 2055-01-01T00:00:00Z", "expired"),
        ("--policy other-publisher.toml", "wrong_publisher"),
        ("--policy eku.toml", "wrong_purpose"),
        ("--policy denied.toml", "denied_file"),
        ("--policy revoked.toml", "revoked"),
        ("--policy stamped.toml", "timestamp_missing"),
        ("--policy plain.toml --deny file.deny", "denied_file"),
    ] {
        let (code, report) = desk.verify(&format!("signed.exe {arguments}"));
        assert_eq!(
            (code, report["signature"]["fault"]["reason"].as_str()),
            (1, Some(reason)),
            "{arguments}: {report:#}"
        );
    }
    let (code, report) = desk.verify("signed.exe --policy provenance.toml");
    assert_eq!(code, 1);
    assert!(report["checks"].as_array().unwrap().iter().any(|c| c["name"] == "provenance" && c["state"] == "fault"));
    for (arguments, message) in [
        ("--deny file.deny", "give --trust PEM"),
        ("--policy misspelt.toml", "timestamp_reqired"),
        ("--policy other-publisher.toml --publisher Publisher", "names no publisher"),
        ("--trust root.pem --deny bad.deny", "bad.deny"),
        ("--trust root.pem --crl root.pem", "root.pem"),
        ("--trust key.pem", "key.pem"),
        ("--trust root.pem --at tomorrow", "tomorrow"),
    ] {
        let output = desk.hotgraft(&format!("verify signed.exe {arguments}"));
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", said(&output));
        assert!(said(&output).contains(message), "{arguments}: {}", said(&output));
    }
    // The same options, read by the same code, before `apply` and `run` do anything.
    desk.write("patch", b"no patch");
    for command in ["apply --pid 1 --patch signed.exe", "run --patch signed.exe"] {
        let program = if command.starts_with("run") { " -- x.exe" } else { "" };
        let output =
            desk.hotgraft(&format!("{command} --policy plain.toml --crl good.crl --publisher Publisher{program}"));
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("signed.exe") && !said(&output).contains("Usage"), "{}", said(&output));
    }
}

#[test]
fn damaged_and_forged_files_are_answered() {
    let desk = Desk::new(Key::p256(2));
    let plain = desk.read("plain.exe");
    desk.done(&format!("sign plain.exe -o signed.exe {PEM}"));
    let signed = desk.read("signed.exe");
    let security = Shape::default().security();
    let table = pe::get32(&signed, security) as usize;
    let size = pe::get32(&signed, security + 4);
    let edit = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = signed.clone();
        change(&mut bytes);
        bytes
    };
    let server =
        Entity::issue(Template { ekus: vec![SERVER_AUTH], ..Template::leaf("Server") }, Key::p256(2), Some(&desk.root));
    let weak =
        forge::Forge { digest: forge::algorithm(forge::MD5), ..forge::Forge::new(&plain, &desk.leaf, &[&desk.root]) };
    let cases = [
        ("appended", edit(&|f| f.extend([0; 8])), "malformed"),
        (
            "slack in the certificate",
            edit(&|f| {
                f.extend([7; 32]);
                pe::put32(f, security + 4, size + 32);
                pe::put32(f, table, size + 32);
            }),
            "malformed",
        ),
        (
            "slack behind the certificate",
            edit(&|f| {
                f.extend([0; 32]);
                pe::put32(f, security + 4, size + 32);
            }),
            "malformed",
        ),
        ("length 0", edit(&|f| pe::put32(f, table, 0)), "malformed"),
        ("length far away", edit(&|f| pe::put32(f, table, 0xffff_fff8)), "malformed"),
        ("directory far away", edit(&|f| pe::put32(f, security, 0xffff_fff8)), "malformed"),
        ("directory in the headers", edit(&|f| pe::put32(f, security, 0x40)), "malformed"),
        ("truncated", edit(&|f| f.truncate(table + 20)), "malformed"),
        (
            "moved into another file",
            forge::embed(&Shape { overlay: 8, ..Shape::default() }.build(), &signed[table + 8..]),
            "digest_mismatch",
        ),
        ("a changed byte", edit(&|f| f[0x500] ^= 1), "digest_mismatch"),
        (
            "another purpose",
            forge::embed(&plain, &forge::Forge::new(&plain, &server, &[&desk.root]).finish()),
            "wrong_purpose",
        ),
        ("a weak digest", forge::embed(&plain, &weak.finish()), "weak_algorithm"),
        ("not signed", plain.clone(), "unsigned"),
    ];
    for (name, bytes, reason) in cases {
        desk.write("case.exe", bytes);
        let (code, report) = desk.verify("case.exe --trust root.pem");
        assert_eq!((code, report["signature"]["fault"]["reason"].as_str()), (1, Some(reason)), "{name}: {report:#}");
        assert_eq!(report["ok"], false);
    }
    for (name, bytes) in [("empty", vec![]), ("text", b"no image".to_vec()), ("cut", signed[..0x90].to_vec())] {
        desk.write("case.exe", bytes);
        let output = desk.hotgraft("verify case.exe --trust root.pem");
        assert_eq!(output.status.code(), Some(2), "{name}: {}", said(&output));
    }
}

#[test]
fn provenance_from_build_to_verify() {
    let desk = Desk::new(Key::p256(2));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fixtures/bounds");
    let image = |side: &str| {
        let files = std::fs::read_dir(fixtures.join(side)).unwrap().map(|f| f.unwrap().path());
        text(&files.into_iter().find(|p| p.extension().is_some_and(|e| e == "dll" || e == "exe")).unwrap()).to_owned()
    };
    let (old, new) = (image("old"), image("new"));
    desk.done(&format!(
        "build {old} {new} -o patch.dll --sequence 3 --cve CVE-2026-1 --kb KB1 --provenance patch.json"
    ));
    let statement: Value = serde_json::from_slice(&desk.read("patch.json")).unwrap();
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert!(!String::from_utf8(desk.read("patch.json")).unwrap().contains(text(desk.folder.path())));
    desk.done(&format!("build {old} {new} -o again.dll --sequence 3 --cve CVE-2026-1 --kb KB1"));
    assert_eq!(desk.read("again.dll"), desk.read("patch.dll"));
    desk.done(&format!("sign patch.dll -o signed.dll {PEM} --provenance patch.json"));
    let envelope: Value = serde_json::from_slice(&desk.read("signed.dll.intoto.json")).unwrap();
    assert_eq!(envelope["payloadType"], "application/vnd.in-toto+json");

    desk.write(
        "policy.toml",
        "schema = \"hotgraft.policy/1\"\nroots = [\"root.pem\"]\nprovenance_required = true\nminimum_sequence = 3\n",
    );
    let (code, report) = desk.verify(&format!("signed.dll --policy policy.toml --base {old} --new {new}"));
    assert_eq!(code, 0, "{report:#}");
    let state = |report: &Value, name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|c| c["name"] == name).map(|c| c["state"].as_str().unwrap().to_owned())
    };
    for name in ["structure", "signature", "policy", "provenance", "base", "residual"] {
        assert_eq!(state(&report, name).as_deref(), Some("ok"), "{name}");
    }
    assert_eq!(report["provenance"]["verdict"], "patch");
    assert_eq!(report["provenance"]["options"]["sequence"], "3");
    assert_eq!(report["provenance"]["options"]["cve"], "CVE-2026-1");

    // Nobody's word, and nothing to hold it against: said so.
    let (code, report) = desk.verify("signed.dll");
    assert_eq!(code, 0);
    for name in ["signature", "policy", "provenance", "base", "residual"] {
        assert_eq!(state(&report, name).as_deref(), Some("not_checked"), "{name}");
    }
    // Another new image than the one the patch was made from; a statement about another patch; a changed one; none.
    let (code, report) = desk.verify(&format!("signed.dll --policy policy.toml --base {old} --new {old}"));
    assert_eq!((code, state(&report, "provenance").as_deref()), (1, Some("fault")));
    desk.done(&format!("sign plain.exe -o other.exe {PEM}"));
    let (code, _) = desk.verify("other.exe --trust root.pem --provenance signed.dll.intoto.json");
    assert_eq!(code, 1);
    desk.fails(&format!("sign plain.exe -o out {PEM} --provenance patch.json"), 2, "another patch");
    let changed =
        String::from_utf8(desk.read("signed.dll.intoto.json")).unwrap().replacen("\"sig\": \"M", "\"sig\": \"N", 1);
    desk.write("signed.dll.intoto.json", changed);
    let (code, report) = desk.verify("signed.dll --trust root.pem");
    assert_eq!((code, state(&report, "provenance").as_deref()), (1, Some("fault")), "{report:#}");
    std::fs::remove_file(desk.path("signed.dll.intoto.json")).unwrap();
    let (code, report) = desk.verify("signed.dll --policy policy.toml");
    assert_eq!((code, state(&report, "provenance").as_deref()), (1, Some("fault")));
    desk.write("later.toml", "schema = \"hotgraft.policy/1\"\nroots = [\"root.pem\"]\nminimum_sequence = 4\n");
    let (code, report) = desk.verify("signed.dll --policy later.toml");
    assert_eq!((code, state(&report, "policy").as_deref()), (1, Some("fault")));
}
