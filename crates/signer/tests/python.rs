//! Our signatures under LIEF and signify, which come from PyPI: `cargo xtask setup` makes an interpreter that has them,
//! and `cargo xtask test` names it in `HOTGRAFT_PYTHON`.

mod common;

use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use common::tools::{run, text};
use hotgraft_signer::*;

#[test]
fn lief_and_signify_accept_what_we_sign() {
    let folder = tempfile::tempdir().unwrap();
    let root = Entity::issue(Template::root("Root"), Key::rsa(2048, 3), None);
    let roots = folder.path().join("root.pem");
    std::fs::write(&roots, root.pem()).unwrap();
    let shapes = [
        Shape::default(),
        Shape { plus: false, ..Shape::default() },
        Shape { overlay: 5, checksum: false, ..Shape::default() },
        Shape { sections: vec![0x200], ..Shape::default() },
    ];
    let mut files = vec![];
    let mut add = |name: String, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        files.push(path);
    };
    for (name, key) in [
        ("rsa2048", Key::rsa(2048, 0)),
        ("rsa3072", Key::rsa(3072, 0)),
        ("rsa4096", Key::rsa(4096, 0)),
        ("p256", Key::p256(2)),
        ("p384", Key::p384(2)),
    ] {
        let leaf = Entity::issue(Template::leaf(name), key, Some(&root));
        let chain = leaf.pem() + &root.pem();
        let key = SigningKey::from_pem(leaf.key.pem().as_bytes(), chain.as_bytes(), None).unwrap();
        for digest in DigestAlgorithm::ALL {
            for (index, shape) in shapes.iter().enumerate() {
                for page_hashes in [false, true] {
                    for described in [false, true] {
                        let options = SignOptions {
                            digest,
                            page_hashes,
                            description: described.then(|| "Demo ü".to_owned()),
                            url: described.then(|| "https://example.test/".to_owned()),
                            ..SignOptions::default()
                        };
                        let signed = sign(&shape.build(), &key, &options).unwrap();
                        add(format!("{name}-{digest:?}-{index}-{page_hashes}-{described}.exe"), signed.clone());
                        if index == 0 && described {
                            let append = SignOptions { existing: Existing::Append, ..options };
                            add(
                                format!("{name}-{digest:?}-nested-{page_hashes}.exe"),
                                sign(&signed, &key, &append).unwrap(),
                            );
                        }
                    }
                }
            }
        }
    }
    let python = python();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracles.py");
    let mut arguments = vec![script, text(&roots)];
    arguments.extend(files.iter().map(|f| text(f)));
    let (ok, log) = run(&python, &arguments);
    assert!(ok, "{log}");
    assert_eq!(log.lines().filter(|l| l.contains(".exe |")).count(), files.len());
    println!("{} files", files.len());
}

/// The interpreter with LIEF and signify: the named one, or where `cargo xtask setup` puts it.
fn python() -> String {
    std::env::var("HOTGRAFT_PYTHON").unwrap_or_else(|_| {
        let home = std::env::var("HOME").unwrap_or_default();
        let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
        format!("{cache}/hotgraft/tools/python/bin/python")
    })
}
