//! Files that are large enough for hashing beside reading: the same bytes and reports as for small ones, and errors that
//! end the work.

mod common;

use common::pe::{Shape, get32};
use common::pki::{Entity, Key, Template};
use common::tools::{run, text};
use hotgraft_signer::*;
use sha2::{Digest, Sha256};
use std::io::{Cursor, Seek, SeekFrom, Write};

/// 2026-11-24
const NOW: UnixTime = UnixTime(1_795_500_000);

/// A file that cannot be read from some offset on.
struct Broken<'a>(&'a [u8], u64);

impl Source for Broken<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        if at + buffer.len() as u64 > self.1 {
            return Err(std::io::Error::other("a bad sector"));
        }
        self.0.read_at(at, buffer)
    }
}

/// A disk that is full after so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| std::io::Error::other("the disk is full"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Full {
    fn seek(&mut self, _: SeekFrom) -> std::io::Result<u64> {
        Ok(0)
    }
}

#[test]
fn large_files_are_signed_and_verified_like_small_ones() {
    let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
    let leaf = Entity::issue(Template::leaf("Publisher"), Key::p256(2), Some(&root));
    let chain = leaf.pem() + &root.pem();
    let key = SigningKey::from_pem(leaf.key.pem().as_bytes(), chain.as_bytes(), None).unwrap();
    let trust = TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (file, roots) = (folder.path().join("signed.exe"), folder.path().join("root.pem"));
    std::fs::write(&roots, root.pem()).unwrap();
    // Around a whole number of chunks, and not.
    for (sections, overlay) in [(vec![0x43_2101, 0x1_0001], 3), (vec![(4 << 20) + (256 << 10) - 0x400], 0)] {
        let pe = Shape { sections, overlay, ..Shape::default() }.build();
        for page_hashes in [false, true] {
            let options = SignOptions { page_hashes, ..SignOptions::default() };
            let signed = sign(&pe, &key, &options).unwrap();
            assert_eq!(common::pe::checksum(&signed), get32(&signed, common::pe::CHECKSUM));
            // Behind what the writer holds already.
            let mut out = Cursor::new(b"before".to_vec());
            out.seek(SeekFrom::End(0)).unwrap();
            sign_file(&pe, &key, &options, &mut out).unwrap();
            assert_eq!(out.position(), 6 + signed.len() as u64);
            assert!(out.into_inner()[6..] == signed, "one pass and two give the same bytes");

            std::fs::write(&file, &signed).unwrap();
            let (ok, log) =
                run("osslsigncode", &["verify", "-CAfile", text(&roots), "-ignore-cdp", "-in", text(&file)]);
            assert!(ok && log.contains("Succeeded"), "{log}");
            let report = examine_and_hash(&std::fs::File::open(&file).unwrap(), &trust, NOW).unwrap();
            assert_eq!(report.fault, None);
            let sha256: String = Sha256::digest(&signed).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(report.sha256.as_deref(), Some(sha256.as_str()));
            let checksum = report.checksum.unwrap();
            assert_eq!(checksum.stated, checksum.computed);
            let mut denied = trust.clone();
            denied.deny(&sha256).unwrap();
            assert_eq!(examine(&signed, &denied, NOW).fault.map(|f| f.reason()), Some("denied_file"));
            let mut removed = vec![];
            remove_stream(&signed, &mut removed).unwrap();
            assert!(sign(&removed, &key, &options).unwrap() == signed);

            // Late in the file, so that every thread is at work.
            let mut changed = signed.clone();
            changed[pe.len() - 9] ^= 1;
            assert_eq!(examine(&changed, &trust, NOW).fault.map(|f| f.reason()), Some("digest_mismatch"));
            let broken = Broken(&pe, 2 << 20);
            assert!(matches!(sign_file(&broken, &key, &options, &mut Full(usize::MAX)), Err(SignError::Io(_))));
            assert!(matches!(sign_file(&pe, &key, &options, &mut Full(1 << 20)), Err(SignError::Io(_))));
            let report = examine(&Broken(&signed, 2 << 20), &trust, NOW);
            assert_eq!(report.fault.map(|f| f.reason()), Some("malformed"));
        }
    }
}
