//! Catalogs as they are served: what is in order is trusted; what is tampered with, stale, mixed up, cut off or rolled
//! back is not, and nothing changes.

mod common;

use common::*;
use hotgraft_release::catalog::{Baseline, Cause};
use hotgraft_release::files::Folder;
use hotgraft_release::tuf::{Client, Role};
use hotgraft_release::workshop::{RoleHolders, Workshop};
use hotgraft_signer::DigestSigner;
use std::collections::BTreeMap;
use std::path::Path;

fn second(workshop: &mut Workshop, keys: &Keys) {
    let at = time("2026-04-14");
    let (next, images) =
        baseline("2026-04", Some("2026-01"), &fixture("bounds", "new", "bounds.dll"), &["CVE-2026-0002"]);
    workshop.add_baseline(at, next, &images).unwrap();
    workshop.publish(&keys.all(), at).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in tree(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn what_was_published_is_trusted_and_the_same_bytes_come_again() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let keys = Keys::new();
    let mut workshop = published(folder.path(), &keys);
    let now = time("2026-01-14");
    let trusted = workshop.client().unwrap().update(&workshop.public(), now).unwrap();
    assert_eq!(trusted.catalog.latest_baseline().unwrap().id, "2026-01");
    assert_eq!(trusted.check_files(&workshop.public()).unwrap().0, 2);
    assert_eq!(trusted.figures().versions, [1, 2, 2, 2]);

    published(other.path(), &keys);
    // ECDSA and PKCS#1 v1.5 signatures come out the same for the same key and bytes.
    assert_eq!(tree(&folder.path().join("catalog")), tree(&other.path().join("catalog")));

    // A client that remembers goes on from there.
    second(&mut workshop, &keys);
    let memory = serde_json::to_vec(&trusted.remembered).unwrap();
    let later = Client::resume(&memory).unwrap().update(&workshop.public(), time("2026-04-15")).unwrap();
    assert_eq!(later.catalog.baselines().count(), 2);
    assert!(later.catalog.fixed_in_files("2026-04").contains("CVE-2025-0001"));
}

#[test]
fn the_key_of_timestamp_alone_keeps_a_catalog_fresh() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::new();
    let mut workshop = published(folder.path(), &keys);
    let done = workshop.publish(&[&keys.online], time("2026-01-15")).unwrap();
    assert_eq!((done.versions, done.signed), ([1, 2, 2, 3], vec!["timestamp"]));
    let done = workshop.publish(&[&keys.online], time("2026-02-01")).unwrap();
    assert_eq!((done.versions, done.signed), ([1, 2, 3, 4], vec!["snapshot", "timestamp"]));
    let error = workshop.publish(&[&keys.online], time("2026-04-01")).unwrap_err();
    assert_eq!(error.key(), Some("unsigned"), "{error}");
    // Two must sign for the root.
    let changes = keys.roles();
    let error =
        workshop.rotate(&changes, &[&keys.root[0], &keys.targets, &keys.online], time("2026-02-02")).unwrap_err();
    assert_eq!(error.key(), Some("tampered"), "{error}");
}

#[test]
fn every_damage_is_seen_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::new();
    let mut workshop = published(folder.path(), &keys);
    let at = time("2026-01-14");
    let client = workshop.client().unwrap();
    let before = client.update(&workshop.public(), at).unwrap();
    let memory = serde_json::to_vec(&before.remembered).unwrap();
    let old = folder.path().join("old");
    copy(&workshop.public().0, &old);
    second(&mut workshop, &keys);
    let now = time("2026-04-15");
    let client = Client::resume(&memory).unwrap();
    let good = tree(&workshop.public().0);
    let newer = client.update(&workshop.public(), now).unwrap();

    let refused = |files: &BTreeMap<std::path::PathBuf, Vec<u8>>, at, client: &Client, whole: bool| {
        let place = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let source = Folder(place.path().to_owned());
        let answer = client.update(&source, at);
        let answer = if whole {
            answer.and_then(|trusted| trusted.check_files(&source).map(|_| ()))
        } else {
            answer.map(|_| ())
        };
        answer.err().map(|error| error.key().unwrap_or_else(|| panic!("{error}")).to_owned())
    };
    assert_eq!(refused(&good, now, &client, true), None);

    // Every file, cut off anywhere, or with any bit the other way (a sample of both), and gone.
    let mut seen = BTreeMap::<String, usize>::new();
    for (name, bytes) in &good {
        // What only older states name is not read.
        let text = name.to_string_lossy();
        let stale = text.contains("metadata/1.") || text.contains("metadata/2.");
        if stale
            || (text.contains("catalog.json")
                && !newer.targets.targets["catalog.json"].hashes.sha256.is_empty()
                && !text.contains(&newer.targets.targets["catalog.json"].hashes.sha256))
        {
            continue;
        }
        for part in 0..24 {
            let at = bytes.len() * part / 24;
            let mut files = good.clone();
            files.insert(name.clone(), bytes[..at].to_vec());
            let key = refused(&files, now, &client, true).unwrap_or_else(|| panic!("{text} cut at {at} is trusted"));
            *seen.entry(key).or_default() += 1;
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (part % 8);
            // White space between fields is nobody's business where no hash covers the file.
            let same = serde_json::from_slice::<serde_json::Value>(&flipped).ok()
                == serde_json::from_slice::<serde_json::Value>(bytes).ok();
            files.insert(name.clone(), flipped);
            match refused(&files, now, &client, true) {
                Some(key) => *seen.entry(key).or_default() += 1,
                None => assert!(same && text.ends_with("timestamp.json"), "{text} with byte {at} changed is trusted"),
            }
        }
        let mut files = good.clone();
        files.remove(name);
        assert_eq!(refused(&files, now, &client, true).as_deref(), Some("missing"), "{text}");
    }
    assert!(seen.len() >= 4, "{seen:?}");

    // Stale: nothing newer is served for longer than it counts.
    assert_eq!(refused(&good, time("2026-04-21"), &client, false).as_deref(), Some("stale"));
    assert_eq!(refused(&good, time("2026-04-20"), &client, false), None);
    // Rolled back: an old state to a client that has seen a newer one, in time or not.
    let client = Client::resume(&serde_json::to_vec(&newer.remembered).unwrap()).unwrap();
    assert_eq!(refused(&tree(&old), at, &client, false).as_deref(), Some("rollback"));
    // Mixed up: parts of two states.
    let old = tree(&old);
    for name in good.keys().filter(|name| old.contains_key(*name) && old.get(*name) != good.get(*name)) {
        let mut files = good.clone();
        files.insert(name.clone(), old[name].clone());
        assert!(refused(&files, now, &client, false).is_some(), "{}", name.display());
    }
    let mut files = good.clone();
    let swapped = good[Path::new("metadata/2.snapshot.json")].clone();
    files.insert("metadata/3.snapshot.json".into(), swapped);
    assert!(["mixed_up", "truncated"].contains(&refused(&files, now, &client, false).unwrap().as_str()));
    // A catalog of somebody else.
    let (elsewhere, others) = (tempfile::tempdir().unwrap(), Keys::new());
    let foreign = published(elsewhere.path(), &others);
    let files = tree(&foreign.public().0);
    assert!(refused(&files, at, &client, false).is_some());
}

#[test]
fn a_stolen_key_is_replaced_and_what_the_thief_signed_is_worth_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::new();
    let mut workshop = published(folder.path(), &keys);
    let client = workshop.client().unwrap();
    // The thief has the keys of targets, snapshot and timestamp, and publishes an own release in many versions.
    let stolen = folder.path().join("stolen");
    copy(&folder.path().join("catalog"), &stolen);
    let mut thief = Workshop::open(&stolen).unwrap();
    let (evil, images) = baseline("evil", Some("2026-01"), &fixture("bounds", "new", "bounds.dll"), &["CVE-2026-6666"]);
    thief
        .add_baseline(
            time("2026-01-14"),
            Baseline { cause: Cause::Emergency { text: "trust me".into() }, ..evil },
            &images,
        )
        .unwrap();
    for _ in 0..5 {
        thief.publish(&[&keys.targets, &keys.online], time("2026-01-14")).unwrap();
    }
    let fooled = client.update(&thief.public(), time("2026-01-14")).unwrap();
    assert_eq!(fooled.catalog.latest_baseline().unwrap().id, "evil");
    // The vendor replaces them; the root is offline and was not stolen.
    let new = Keys { root: [key("unused"), key("unused")], targets: key("new targets"), online: key("new online") };
    let mut roles = new.roles();
    roles.remove(&Role::Root);
    let signers: Vec<&dyn DigestSigner> = vec![&keys.root[0], &keys.root[1], &new.targets, &new.online];
    workshop.rotate(&roles, &signers, time("2026-01-15")).unwrap();
    // A machine that was not fooled, and one that was: both come to the vendor's state.
    for client in [client, Client::resume(&serde_json::to_vec(&fooled.remembered).unwrap()).unwrap()] {
        let trusted = client.update(&workshop.public(), time("2026-01-15")).unwrap();
        assert_eq!(trusted.catalog.latest_baseline().unwrap().id, "2026-01");
        assert_eq!(trusted.root.version, 2);
        // The thief is done for.
        let client = Client::resume(&serde_json::to_vec(&trusted.remembered).unwrap()).unwrap();
        copy(&workshop.public().0.join("metadata"), &folder.path().join("mix/metadata"));
        copy(&thief.public().0, &folder.path().join("mix"));
        let error = client.update(&Folder(folder.path().join("mix")), time("2026-01-15")).unwrap_err();
        assert_eq!(error.key(), Some("tampered"), "{error}");
    }
    // Old keys sign nothing any more.
    assert!(workshop.publish(&keys.all(), time("2026-01-16")).is_err());
}

#[test]
fn an_interruption_leaves_the_old_state_or_the_new_one() {
    let keys = Keys::new();
    let mut interrupted = 0;
    for stop in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let mut workshop = published(folder.path(), &keys);
        let at = time("2026-04-14");
        workshop.publish(&keys.all(), at).unwrap();
        let client = workshop.client().unwrap();
        let (next, images) = baseline("2026-04", Some("2026-01"), &fixture("bounds", "new", "bounds.dll"), &[]);
        workshop.add_baseline(at, next, &images).unwrap();
        workshop.stop_before(Some(stop));
        let answer = workshop.rotate(&keys.roles(), &keys.all(), at);
        let trusted = client.update(&workshop.public(), at).unwrap();
        trusted.check_files(&workshop.public()).unwrap();
        let count = trusted.catalog.baselines().count();
        match answer {
            Ok(_) => assert_eq!(count, 2),
            Err(_) => {
                interrupted += 1;
                assert_eq!(count, 1, "stopped before file {stop}");
                // The same command again completes it.
                let mut workshop = Workshop::open(&folder.path().join("catalog")).unwrap();
                workshop.publish(&keys.all(), at).unwrap();
                assert_eq!(client.update(&workshop.public(), at).unwrap().catalog.baselines().count(), 2);
            }
        }
    }
    assert_eq!(interrupted, 5);
    // The same for what is prepared.
    for stop in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let mut workshop = published(folder.path(), &keys);
        let draft = std::fs::read(folder.path().join("catalog/draft.json")).unwrap();
        let (next, images) = baseline("2026-04", Some("2026-01"), &fixture("bounds", "new", "bounds.dll"), &[]);
        workshop.stop_before(Some(stop));
        assert!(workshop.add_baseline(time("2026-04-14"), next, &images).is_err());
        assert_eq!(std::fs::read(folder.path().join("catalog/draft.json")).unwrap(), draft);
    }
}

#[test]
fn history_only_grows() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::new();
    let mut workshop = published(folder.path(), &keys);
    let old = std::fs::read(folder.path().join("catalog/draft.json")).unwrap();
    second(&mut workshop, &keys);
    // An old draft from a backup.
    std::fs::write(folder.path().join("catalog/draft.json"), old).unwrap();
    let mut workshop = Workshop::open(&folder.path().join("catalog")).unwrap();
    let error = workshop.publish(&keys.all(), time("2026-04-15")).unwrap_err();
    assert_eq!(error.key(), Some("history"), "{error}");
    // One in which an entry was changed.
    workshop.draft.catalog.history[0].date = time("2026-01-12");
    let error = workshop.publish(&keys.all(), time("2026-04-15")).unwrap_err();
    assert_eq!(error.key(), Some("history"), "{error}");
}

#[test]
fn keys_of_a_role_count_once_and_the_threshold_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::new();
    let one = RoleHolders { certificates: vec![certificate(&keys.online)], threshold: 2 };
    let mut roles = keys.roles();
    roles.insert(Role::Timestamp, one);
    let catalog = hotgraft_release::Catalog::new("Example", "https://example.test/");
    let expiry = hotgraft_release::tuf::Expiry::default();
    let at = time("2026-01-13");
    let place = folder.path().join("catalog");
    assert!(Workshop::init(&place, catalog.clone(), expiry, &roles, &keys.all(), at).is_err());
    assert!(!place.exists(), "nothing is left");
    // The same key listed twice is one key.
    roles.insert(Role::Timestamp, RoleHolders { certificates: vec![certificate(&keys.online); 2], threshold: 2 });
    assert!(Workshop::init(&place, catalog, expiry, &roles, &keys.all(), at).is_err());
    assert!(!place.exists(), "nothing is left");
}
