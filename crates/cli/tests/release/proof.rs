//! What the bytes of patches have to show before they enter a catalog, and how signatures come into them.

use super::vendor::{Vendor, image, key, run};
use hotgraft_release::catalog::Hotpatch;
use hotgraft_release::proof::equal_alone_and_after;
use hotgraft_release::workshop::{Workshop, patch_of};
use std::collections::BTreeMap;
use std::path::Path;

fn patch(folder: &Path, old: u32, new: u32, sequence: u32) -> Vec<u8> {
    let out = folder.join(format!("{old}-{new}-{sequence}.dll"));
    let (old, new) = (image("engine", old), image("engine", new));
    let sequence = sequence.to_string();
    let words = ["build".as_ref(), old.as_os_str(), new.as_os_str(), "-o".as_ref(), out.as_os_str()];
    let more = ["--sequence", &sequence, "--cve", "CVE-2026-0001"].map(std::ffi::OsStr::new);
    let output = run(words.into_iter().chain(more));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(out).expect("written")
}

#[test]
fn a_successor_is_equal_to_itself_alone_or_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let base = std::fs::read(image("engine", 0)).expect("readable");
    let first = patch(folder.path(), 0, 1, 1);
    let second = patch(folder.path(), 0, 2, 2);
    let prove =
        |base: &[u8], patch: &[u8], before: &[(u32, Vec<u8>)]| equal_alone_and_after("engine.dll", base, patch, before);
    let effect = prove(&base, &second, &[(1, first.clone())]).expect("equal");
    assert_eq!((effect.entries, effect.predecessors), (2, 1));
    assert!(effect.bytes > 8192, "{effect:?}");
    // Not above its predecessor; for another image; no patch at all.
    let key = |answer: hotgraft_release::Result<_>| {
        answer.map(|_: hotgraft_release::proof::Effect| ()).expect_err("refused").key()
    };
    assert_eq!(key(prove(&base, &first, &[(2, second.clone())])), Some("chain.not_equal"));
    assert_eq!(key(prove(&std::fs::read(image("engine", 3)).expect("readable"), &first, &[])), Some("chain.not_equal"));
    assert_eq!(key(prove(&base, b"MZ", &[])), Some("chain.not_equal"));
}

#[test]
fn a_patch_says_what_its_release_says() {
    let vendor = Vendor::new("2026-01-13");
    vendor.baseline("2026-01-13", "2026-01", [0, 0], "2026-07-14", "");
    let bytes = patch(vendor.folder.path(), 0, 1, 1);
    let good = Hotpatch {
        id: "2026-02".into(),
        baseline: "2026-01".into(),
        sequence: 1,
        equivalent_build: "1.1".into(),
        kb: None,
        fixes: BTreeMap::from([("CVE-2026-0001".to_owned(), ["engine.dll".to_owned()].into())]),
        supersedes: None,
        patches: vec![patch_of("engine.dll", "engine_hotpatch.dll", &bytes).expect("a patch")],
    };
    let date = "2026-02-10".parse().expect("a date");
    let files = BTreeMap::from([("engine.dll".to_owned(), bytes)]);
    let before = std::fs::read(vendor.catalog().join("draft.json")).expect("readable");
    let add = |change: &dyn Fn(&mut Hotpatch)| {
        let mut hotpatch = good.clone();
        change(&mut hotpatch);
        let mut workshop = Workshop::open(&vendor.catalog()).expect("a catalog");
        workshop.add_hotpatch(date, hotpatch, &files).map(|_| ())
    };
    let changes: [&dyn Fn(&mut Hotpatch); 5] = [
        &|h| h.kb = Some("KB1".into()),
        &|h| h.patches[0].accepted = vec!["runtime.loop.endless".into()],
        &|h| h.patches[0].accepted_by = Some("A. Reviewer".into()),
        &|h| h.patches[0].replaced.clear(),
        &|h| {
            h.fixes.insert("CVE-2026-0002".into(), ["engine.dll".to_owned()].into());
        },
    ];
    for change in changes {
        assert_eq!(add(change).expect_err("refused").key(), Some("chain.patch.other"));
        assert_eq!(std::fs::read(vendor.catalog().join("draft.json")).expect("readable"), before);
    }
    add(&|_| {}).expect("added");
}

#[test]
fn signatures_come_in_between_and_nothing_else() {
    let vendor = Vendor::new("2026-01-13");
    let folder = vendor.folder.path();
    vendor.baseline("2026-01-13", "2026-01", [0, 0], "2026-07-14", "");
    let (stage, signed) = (folder.join("stage"), folder.join("signed.dll"));
    let pairs = [("engine", 0, 1)];
    vendor.hotpatch("2026-02-10", "2026-02", 1, &pairs, &format!("--cve CVE-2026-0001 --stage {}", stage.display()), 0);
    let signer = key(folder, "code", &["rsa:2048"]);
    let (secret, certificate) = signer.split_once(',').expect("a pair");
    let staged = stage.join("engine_hotpatch.dll");
    let words = ["sign".as_ref(), staged.as_os_str(), "-o".as_ref(), signed.as_os_str()];
    let more = ["--key", secret, "--cert", certificate].map(std::ffi::OsStr::new);
    let output = run(words.into_iter().chain(more));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Another patch with a signature is not taken.
    let more = format!("--cve CVE-2026-0001 --signed {}", signed.display());
    vendor.hotpatch("2026-02-10", "2026-02", 1, &[("engine", 0, 2)], &more, 3);
    let added = vendor.hotpatch("2026-02-10", "2026-02", 1, &pairs, &more, 0);
    let sha256 = added["patches"]["engine.dll"]["sha256"].as_str().expect("text");
    let served = vendor.catalog().join(format!("public/targets/patches/2026-02/{sha256}.engine_hotpatch.dll"));
    assert_eq!(std::fs::read(served).expect("served"), std::fs::read(signed).expect("readable"));
    vendor.publish("2026-02-10");
    vendor.tell("verify CATALOG --root ROOT --now 2026-02-11", 0);
}
