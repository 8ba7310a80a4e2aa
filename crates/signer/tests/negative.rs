//! Malformed and forged files by named mutations: each is refused, with the reason that is right for it.

mod common;

use common::der::*;
use common::forge::*;
use common::pe::{self, CHECKSUM, Shape, get32, put16, put32};
use common::pki::{CODE_SIGNING, Entity, Key, SERVER_AUTH, TIME_STAMPING, Template, extension};
use hotgraft_signer::*;

/// 2026-11-24
const NOW: UnixTime = UnixTime(1_795_500_000);

struct Bench {
    root: Entity,
    leaf: Entity,
    tsa_root: Entity,
    tsa: Entity,
    pe: Vec<u8>,
    shape: Shape,
}

impl Bench {
    fn new() -> Bench {
        let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
        let leaf = Entity::issue(Template::leaf("Publisher"), Key::p256(2), Some(&root));
        let tsa_root = Entity::issue(Template::root("TSA Root"), Key::p256(3), None);
        let tsa = Entity::issue(Template::tsa("TSA"), Key::p256(4), Some(&tsa_root));
        let shape = Shape::default();
        Bench { root, leaf, tsa_root, tsa, pe: shape.build(), shape }
    }

    fn trust(&self) -> TrustPolicy {
        let mut trust = TrustPolicy::from_pem_roots(self.root.pem().as_bytes()).unwrap();
        trust.timestamp_roots = read_pem_certificates(self.tsa_root.pem().as_bytes()).unwrap();
        trust
    }

    fn forge(&self) -> Forge {
        Forge::new(&self.pe, &self.leaf, &[&self.root])
    }

    fn signed(&self) -> Vec<u8> {
        embed(&self.pe, &self.forge().finish())
    }

    fn file(&self, forge: &Forge) -> Vec<u8> {
        embed(&self.pe, &forge.finish())
    }

    /// Signed by a leaf of this template, under this root.
    fn with_leaf(&self, template: Template) -> Vec<u8> {
        let leaf = Entity::issue(template, Key::p256(2), Some(&self.root));
        self.file(&Forge::new(&self.pe, &leaf, &[&self.root]))
    }

    /// Signed by a leaf under an intermediate of this template, under this root.
    fn with_intermediate(&self, template: Template) -> Vec<u8> {
        let middle = Entity::issue(template, Key::p256(5), Some(&self.root));
        let leaf = Entity::issue(Template::leaf("Publisher"), Key::p256(2), Some(&middle));
        self.file(&Forge::new(&self.pe, &leaf, &[&middle, &self.root]))
    }

    /// The signature with a token, the token's pieces changed.
    fn stamped(&self, tsa: &Entity, change: impl Fn(&mut Token), change_forge: impl Fn(&mut Forge)) -> Vec<u8> {
        let mut forge = self.forge();
        let signature = forge.signature();
        forge.signature = Some(signature.clone());
        let mut token = Token::over(&signature, tsa);
        change(&mut token);
        let mut token = token.forge(tsa, &[&self.tsa_root]);
        change_forge(&mut token);
        forge.unsigned.push(attribute(RFC3161, &[token.finish()]));
        self.file(&forge)
    }
}

#[derive(Default)]
struct Cases {
    list: Vec<Case>,
}

struct Case {
    name: String,
    file: Vec<u8>,
    /// None: accepted.
    reason: Option<&'static str>,
    /// None: the usual one.
    trust: Option<TrustPolicy>,
}

impl Cases {
    fn refused(&mut self, name: &str, file: Vec<u8>, reason: &'static str) {
        self.list.push(Case { name: name.to_owned(), file, reason: Some(reason), trust: None });
    }

    fn refused_by(&mut self, name: &str, file: Vec<u8>, reason: &'static str, trust: TrustPolicy) {
        self.list.push(Case { name: name.to_owned(), file, reason: Some(reason), trust: Some(trust) });
    }

    /// Controls: what must be accepted, so that a refusal of everything does not pass.
    fn accepted(&mut self, name: &str, file: Vec<u8>) {
        self.list.push(Case { name: name.to_owned(), file, reason: None, trust: None });
    }
}

fn edit(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    change(&mut copy);
    copy
}

fn table_cases(b: &Bench, c: &mut Cases) {
    let signed = b.signed();
    let security = b.shape.security();
    let at = get32(&signed, security) as usize;
    let size = get32(&signed, security + 4);
    let der = b.forge().finish().len();
    let grow = |f: &mut Vec<u8>, tail: &[u8], inside: bool| {
        f.extend_from_slice(tail);
        put32(f, security + 4, size + tail.len() as u32);
        if inside {
            put32(f, at, size + tail.len() as u32);
        }
    };
    c.accepted("control", signed.clone());
    c.accepted("wrong checksum is not about the signature", edit(&signed, |f| put32(f, CHECKSUM, 0xdead_beef)));
    c.refused("8 zero bytes inside the certificate", edit(&signed, |f| grow(f, &[0; 8], true)), "malformed");
    c.refused(
        "32 bytes inside the certificate (CVE-2013-3900)",
        edit(&signed, |f| grow(f, &[0x45; 32], true)),
        "malformed",
    );
    c.refused("4 KiB inside the certificate", edit(&signed, |f| grow(f, &[0x45; 4096], true)), "malformed");
    c.refused("32 bytes behind the certificate", edit(&signed, |f| grow(f, &[0x45; 32], false)), "malformed");
    c.refused("8 zero bytes behind the certificate", edit(&signed, |f| grow(f, &[0; 8], false)), "malformed");
    c.refused("bytes behind the table", edit(&signed, |f| f.extend_from_slice(b"EVILDATA")), "malformed");
    c.refused("one zero byte behind the table", edit(&signed, |f| f.push(0)), "malformed");
    for length in [0, 1, 7, 8, 9, size - 8, size + 1, size + 8, 0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_ffff] {
        c.refused(&format!("dwLength {length:#x}"), edit(&signed, |f| put32(f, at, length)), "malformed");
    }
    for length in [0, 1, 8, size - 8, size - 1, size + 8, 0x7fff_ffff, 0xffff_fff8, 0xffff_ffff] {
        c.refused(
            &format!("directory size {length:#x}"),
            edit(&signed, |f| put32(f, security + 4, length)),
            "malformed",
        );
    }
    for offset in
        [0, 1, 0x80, 0x400, at as u32 - 8, at as u32 + 8, at as u32 + 1, 0x7fff_ffff, 0xffff_fff8, 0xffff_ffff]
    {
        c.refused(&format!("directory offset {offset:#x}"), edit(&signed, |f| put32(f, security, offset)), "malformed");
    }
    for revision in [0, 0x100, 0x201, 0xffff] {
        c.refused(&format!("revision {revision:#x}"), edit(&signed, |f| put16(f, at + 4, revision)), "malformed");
    }
    for kind in [0, 1, 3, 4, 0xeff, 0xffff] {
        c.refused(&format!("type {kind:#x}"), edit(&signed, |f| put16(f, at + 6, kind)), "malformed");
    }
    let twice = edit(&signed, |f| {
        let copy = f[at..].to_vec();
        grow(f, &copy, false);
    });
    c.refused("two certificates in the table", twice, "malformed");
    for count in [0, 1, 4] {
        let case = edit(&signed, |f| put32(f, security - 36, count));
        c.refused(&format!("NumberOfRvaAndSizes {count}"), case, "malformed");
    }
    let unaligned = edit(&signed, |f| {
        f.splice(at..at, [0; 4]);
        put32(f, security, at as u32 + 4);
    });
    c.refused("a table at a multiple of 4", unaligned, "malformed");
    let inserted = edit(&signed, |f| {
        f.splice(at..at, *b"EVILDATA");
        put32(f, security, at as u32 + 8);
    });
    c.refused("bytes before the table", inserted, "digest_mismatch");
    for cut in [1, 8, 16, 100] {
        c.refused(&format!("{cut} bytes cut off"), edit(&signed, |f| f.truncate(f.len() - cut)), "malformed");
    }
    c.refused("directory zeroed, table kept", edit(&signed, |f| f[security..security + 8].fill(0)), "unsigned");
    c.refused("no signature at all", b.pe.clone(), "unsigned");
    c.refused(
        "padding is not zero",
        edit(&signed, |f| {
            // Make room for padding whatever the length of the signature.
            let length = 8 + der;
            f.truncate(at + length);
            f.resize((at + length).next_multiple_of(8), 0x55);
            if length.is_multiple_of(8) {
                f.extend_from_slice(&[0x55; 8]);
            }
            let size = (f.len() - at) as u32;
            put32(f, at, size);
            put32(f, security + 4, size);
        }),
        "malformed",
    );
    c.refused("an empty file", vec![], "malformed");
    c.refused("MZ alone", b"MZ".to_vec(), "malformed");
    c.refused("a PE header outside of the file", edit(&signed, |f| put32(f, 0x3c, 0xffff_ffff)), "malformed");
    c.refused("another magic", edit(&signed, |f| put16(f, pe::OPTIONAL, 0x107)), "malformed");
    c.refused("a short optional header", edit(&signed, |f| put16(f, pe::PE_OFFSET + 20, 0x60)), "malformed");
    c.refused(
        "SizeOfHeaders beyond the file",
        edit(&signed, |f| put32(f, pe::OPTIONAL + 60, 0x1000_0000)),
        "malformed",
    );
    c.refused("SizeOfHeaders of 0", edit(&signed, |f| put32(f, pe::OPTIONAL + 60, 0)), "malformed");
    c.refused("65535 sections", edit(&signed, |f| put16(f, pe::PE_OFFSET + 6, 0xffff)), "malformed");
    let last = b.shape.section_table() + 80;
    let raw = get32(&signed, last + 16);
    c.refused("a section grown over the table", edit(&signed, |f| put32(f, last + 16, raw + 0x200)), "malformed");
    c.refused("a section beyond the file", edit(&signed, |f| put32(f, last + 16, 0x7000_0000)), "malformed");
    c.refused("a section that overlaps another", edit(&signed, |f| put32(f, last + 20, 0x400)), "ambiguous_layout");
    c.refused("a section that leaves a gap", edit(&signed, |f| put32(f, last - 40 + 16, 0)), "ambiguous_layout");
    let gap = Shape { gap: 0x200, ..Shape::default() }.build();
    c.refused("signed with a gap", embed(&gap, &Forge::new(&gap, &b.leaf, &[&b.root]).finish()), "ambiguous_layout");
    for (name, at) in
        [("DOS stub", 0x50), ("section table", b.shape.section_table()), ("code", 0x500), ("last byte", at - 1)]
    {
        c.refused(&format!("a changed byte: {name}"), edit(&signed, |f| f[at] ^= 1), "digest_mismatch");
    }
    c.refused("another subsystem", edit(&signed, |f| put16(f, pe::OPTIONAL + 68, 3)), "digest_mismatch");
    let foreign = embed(&Shape { overlay: 8, ..Shape::default() }.build(), &b.forge().finish());
    c.refused("the signature of another file", foreign, "digest_mismatch");
}

fn der_cases(b: &Bench, c: &mut Cases) {
    let whole = b.forge().finish();
    let file = |der: &[u8]| embed(&b.pe, der);
    c.refused("BER: indefinite length", file(&edit(&whole, |d| d[1] = 0x80)), "malformed");
    c.refused("length of five octets", file(&[&[0x30, 0x85, 0, 0, 0, 1, 0][..], &whole].concat()), "malformed");
    c.refused("length 2^32-1", file(&[&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..], &whole[4..]].concat()), "malformed");
    c.refused("length in more octets than needed", file(&[&[0x30, 0x83, 0][..], &whole[2..]].concat()), "malformed");
    c.refused("a SET for the SEQUENCE", file(&edit(&whole, |d| d[0] = 0x31)), "malformed");
    c.refused("high tag number", file(&edit(&whole, |d| d[0] = 0x3f)), "malformed");
    c.refused("truncated within", file(&whole[..whole.len() - 9]), "malformed");
    c.refused("nothing but zeros", file(&[0; 64]), "malformed");
    c.refused(
        "trailing element in ContentInfo",
        {
            let inner = &parts(&whole)[0].1;
            file(&seq(&[inner.clone(), null()]))
        },
        "malformed",
    );
    c.refused(
        "deeply nested sequences",
        {
            let mut deep = vec![];
            for _ in 0..5000 {
                deep = seq(&[deep]);
            }
            file(&deep)
        },
        "malformed",
    );

    let mut forged = |name: &str, reason: &'static str, change: &dyn Fn(&mut Forge)| {
        let mut forge = b.forge();
        change(&mut forge);
        c.refused(name, b.file(&forge), reason);
    };
    forged("content type data", "unsupported", &|f| f.outer_type = "1.2.840.113549.1.7.1".into());
    forged("SignedData version 3", "unsupported", &|f| f.version = 3);
    forged("SignedData version 0", "unsupported", &|f| f.version = 0);
    forged("content in an OCTET STRING", "unsupported", &|f| f.content = octets(&f.content));
    forged("another content type", "unsupported", &|f| f.content_type = "1.3.6.1.4.1.311.10.1".into());
    forged("no signer", "malformed", &|f| f.no_signer = true);
    forged("two signers", "unsupported", &|f| f.more_signers.push(f.signer()));
    forged("a signer by key identifier", "unsupported", &|f| {
        (f.signer_version, f.sid) = (3, tlv(0x80, &[7; 20]));
    });
    forged("signer version 2", "unsupported", &|f| f.signer_version = 2);
    forged("revocation lists inside", "unsupported", &|f| f.crls = tlv(0xa1, &seq(&[])));
    forged("an attribute certificate", "unsupported", &|f| f.certificates.push(tlv(0xa1, &seq(&[]))));
    forged("65 certificates", "unsupported", &|f| f.certificates = vec![f.certificates[0].clone(); 65]);
    forged("a certificate that is none", "malformed", &|f| f.certificates.push(seq(&[int(1)])));
    forged("no certificates", "signer_missing", &|f| f.certificates.clear());
    forged("the leaf is not there", "signer_missing", &|f| {
        f.certificates.remove(0);
    });
    forged("another serial number", "signer_missing", &|f| f.sid = seq(&[b.root.name(), int(1)]));
    forged("another issuer", "signer_missing", &|f| f.sid = seq(&[b.leaf.name(), int(b.leaf.template.serial)]));
    forged("digestAlgorithms names another", "attribute_mismatch", &|f| f.digests = vec![algorithm(SHA384)]);
    forged("digestAlgorithms names two", "attribute_mismatch", &|f| f.digests.push(algorithm(SHA384)));
    forged("digestAlgorithms is empty", "attribute_mismatch", &|f| f.digests.clear());
    forged("the signer's digest is another", "attribute_mismatch", &|f| f.digest = algorithm(SHA384));
    forged("the signer's digest is SHA-1", "weak_algorithm", &|f| f.digest = algorithm(SHA1));
    forged("the signer's digest is MD5", "weak_algorithm", &|f| f.digest = algorithm(MD5));
    forged("the signer's digest is unknown", "unsupported", &|f| f.digest = algorithm("1.2.3.4"));
    forged("RSA for an EC key", "attribute_mismatch", &|f| f.signature_algorithm = algorithm("1.2.840.113549.1.1.1"));
    forged("ECDSA with another digest", "attribute_mismatch", &|f| {
        f.signature_algorithm = seq(&[oid("1.2.840.10045.4.3.3")]);
    });
    forged("ECDSA with SHA-1", "weak_algorithm", &|f| f.signature_algorithm = seq(&[oid("1.2.840.10045.4.1")]));
    forged("RSA-PSS", "unsupported", &|f| f.signature_algorithm = seq(&[oid("1.2.840.113549.1.1.10")]));
    forged("an empty signature", "bad_signature", &|f| f.signature = Some(vec![]));
    forged("a changed signature", "bad_signature", &|f| {
        let mut signature = f.signature();
        *signature.last_mut().unwrap() ^= 1;
        f.signature = Some(signature);
    });
    forged("a signature of another key", "bad_signature", &|f| f.key = Key::p256(9));
    forged("a signature over the content", "bad_signature", &|f| f.signature = Some(f.key.sign(&f.content)));
    forged("trailing octets behind an ECDSA signature", "bad_signature", &|f| {
        f.signature = Some([f.signature(), vec![0]].concat());
    });
    forged("r and s of 0", "bad_signature", &|f| f.signature = Some(seq(&[int(0), int(0)])));
}

fn attribute_cases(b: &Bench, c: &mut Cases) {
    let mut changed = |name: &str, reason: &'static str, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut forge = b.forge();
        change(forge.attributes.as_mut().unwrap());
        c.refused(name, b.file(&forge), reason);
    };
    changed("contentType is CTL", "attribute_mismatch", &|a| {
        a[0] = attribute(CONTENT_TYPE, &[oid("1.3.6.1.4.1.311.10.1")]);
    });
    changed("contentType is missing", "attribute_mismatch", &|a| {
        a.remove(0);
    });
    changed("contentType twice", "malformed", &|a| a.push(a[0].clone()));
    changed("contentType with two values", "malformed", &|a| {
        a[0] = attribute(CONTENT_TYPE, &[oid(SPC_INDIRECT_DATA), oid(SPC_INDIRECT_DATA)]);
    });
    changed("contentType without value", "malformed", &|a| a[0] = attribute(CONTENT_TYPE, &[]));
    changed("messageDigest is missing", "attribute_mismatch", &|a| {
        a.pop();
    });
    changed("messageDigest of other bytes", "attribute_mismatch", &|a| {
        a[2] = attribute(MESSAGE_DIGEST, &[octets(&[7; 32])]);
    });
    changed("messageDigest is empty", "attribute_mismatch", &|a| a[2] = attribute(MESSAGE_DIGEST, &[octets(&[])]));
    changed("messageDigest twice", "malformed", &|a| a.push(a[2].clone()));
    changed("messageDigest is a BIT STRING", "attribute_mismatch", &|a| {
        let value = parts(&parts(&parts(&a[2])[0].1)[1].1)[0].1.clone();
        a[2] = attribute(MESSAGE_DIGEST, &[tlv(3, &value)]);
    });
    changed("no attributes in the set", "attribute_mismatch", &Vec::clear);
    changed("an attribute that is none", "malformed", &|a| a.push(int(5)));
    changed("an attribute with a third field", "malformed", &|a| a.push(seq(&[oid("1.2.3"), set(&[]), null()])));
    changed("65 attributes", "malformed", &|a| {
        a.extend((0..65).map(|i| attribute(&format!("1.2.3.{i}"), &[null()])));
    });
    changed("OpusInfo with odd UTF-16", "malformed", &|a| {
        a[1] = attribute(OPUS_INFO, &[seq(&[tlv(0xa0, &tlv(0x80, &[0, 0x41, 0]))])]);
    });
    changed("OpusInfo with a lone surrogate", "malformed", &|a| {
        a[1] = attribute(OPUS_INFO, &[seq(&[tlv(0xa0, &tlv(0x80, &[0xd8, 0]))])]);
    });
    changed("OpusInfo with another string", "malformed", &|a| {
        a[1] = attribute(OPUS_INFO, &[seq(&[tlv(0xa0, &tlv(0x0c, b"x"))])]);
    });
    changed("OpusInfo with a URL that is not ASCII", "malformed", &|a| {
        a[1] = attribute(OPUS_INFO, &[seq(&[tlv(0xa1, &tlv(0x80, &[0xff]))])]);
    });
    changed("signingTime that is none", "malformed", &|a| {
        a.push(attribute("1.2.840.113549.1.9.5", &[tlv(0x17, b"yesterday")]));
    });
    let mut none = b.forge();
    none.attributes = None;
    c.refused("no signed attributes", b.file(&none), "unsupported");
    // An attacker who has the attributes signed as content, and takes them for attributes.
    let mut forge = b.forge();
    forge.unsigned.push(attribute("1.3.6.1.4.1.42921.1.2.1", &[octets(&[0; 64])]));
    c.refused("an unauthenticated blob", b.file(&forge), "unsupported");
    let mut forge = b.forge();
    forge.unsigned.push(attribute("1.2.840.113549.1.9.16.2.14", &[seq(&[])]));
    c.refused("a timestamp under the wrong identifier", b.file(&forge), "unsupported");
}

fn content_cases(b: &Bench, c: &mut Cases) {
    let good = digest(&b.pe);
    let mut over = |name: &str, reason: &'static str, content: Vec<u8>| {
        c.refused(name, b.file(&Forge::over(content, &b.leaf, &[&b.root])), reason);
    };
    over("a digest of zeros", "digest_mismatch", indirect(SHA256, &[0; 32]));
    over("a short digest", "malformed", indirect(SHA256, &good[..31]));
    over("a long digest", "malformed", indirect(SHA256, &[&good[..], &[0]].concat()));
    over("an empty digest", "malformed", indirect(SHA256, &[]));
    over("SHA-1 digest", "weak_algorithm", indirect(SHA1, &good[..20]));
    over("MD5 digest", "weak_algorithm", indirect(MD5, &good[..16]));
    over("unknown digest", "unsupported", indirect("1.2.3", &good));
    over("SHA-384 of the file, SHA-256 of the signature", "digest_mismatch", indirect(SHA384, &[0; 48]));
    over(
        "not of a PE image",
        "unsupported",
        seq(&[seq(&[oid("1.3.6.1.4.1.311.2.1.30"), seq(&[])]), seq(&[algorithm(SHA256), octets(&good)])]),
    );
    over("a third field", "malformed", {
        let inner = parts(&indirect(SHA256, &good))[0].1.clone();
        seq(&[inner, null()])
    });
    over("empty content", "malformed", seq(&[]));
    over("a file name", "unsupported", indirect_with(SHA256, &good, tlv(0xa2, &tlv(0x80, &[0, 0x41]))));
    over("a moniker of another class", "unsupported", {
        indirect_with(SHA256, &good, tlv(0xa1, &[octets(&[1; 16]), octets(&[])].concat()))
    });
    over("a link that is none", "malformed", indirect_with(SHA256, &good, int(1)));

    let with_pages = |table: &[u8]| indirect_with(SHA256, &good, page_link("1.3.6.1.4.1.311.2.3.2", table));
    let table = page_table(&b.pe);
    let entries = table.len() / 36;
    let right = Forge::over(with_pages(&table), &b.leaf, &[&b.root]);
    c.accepted("control: page hashes", b.file(&right));
    let mut pages = |name: &str, reason: &'static str, table: Vec<u8>| {
        c.refused(name, b.file(&Forge::over(with_pages(&table), &b.leaf, &[&b.root])), reason);
    };
    pages("an empty page table", "malformed", vec![]);
    pages("a page too few", "malformed", [&table[..table.len() - 72], &table[table.len() - 36..]].concat());
    pages("a page too many", "malformed", [&table[..], &[0; 36]].concat());
    pages("no last entry", "malformed", table[..table.len() - 36].to_vec());
    pages("a byte too many", "malformed", [&table[..], &[0]].concat());
    pages("pages in another order", "malformed", [&table[36..72], &table[..36], &table[72..]].concat());
    for entry in [0, 1, entries - 2] {
        pages(
            &format!("page {entry} has another hash"),
            "page_hash_mismatch",
            edit(&table, |t| t[36 * entry + 4] ^= 1),
        );
    }
    pages("the last entry has a hash", "page_hash_mismatch", edit(&table, |t| *t.last_mut().unwrap() = 1));
    pages("the last entry has another offset", "malformed", edit(&table, |t| t[36 * (entries - 1)] ^= 1));
    let old = indirect_with(SHA256, &good, page_link("1.3.6.1.4.1.311.2.3.1", &table));
    c.refused("page hashes of SHA-1", b.file(&Forge::over(old, &b.leaf, &[&b.root])), "weak_algorithm");
    let unknown = indirect_with(SHA256, &good, page_link("1.3.6.1.4.1.311.2.3.9", &table));
    c.refused("page hashes of an unknown kind", b.file(&Forge::over(unknown, &b.leaf, &[&b.root])), "unsupported");
    let twice = edit(&b.pe, |f| f[0x500] ^= 1);
    let forge = Forge::over(
        indirect_with(SHA256, &digest(&twice), page_link("1.3.6.1.4.1.311.2.3.2", &table)),
        &b.leaf,
        &[&b.root],
    );
    c.refused("the digest of one file, the pages of another", embed(&twice, &forge.finish()), "page_hash_mismatch");
}

/// The page hash table, the plain way.
fn page_table(pe: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let shape = Shape::default();
    let mut headers = pe[..0x400].to_vec();
    headers.drain(shape.security()..shape.security() + 8);
    headers.drain(CHECKSUM..CHECKSUM + 4);
    headers.extend(vec![0; 4096 - 0x400]);
    let mut table = [&[0; 4][..], &Sha256::digest(headers)].concat();
    let mut last = 0;
    for section in 0..shape.sections.len() {
        let at = shape.section_table() + 40 * section;
        let (size, start) = (get32(pe, at + 16) as usize, get32(pe, at + 20) as usize);
        for page in (0..size).step_by(4096) {
            let mut bytes = pe[start + page..start + size.min(page + 4096)].to_vec();
            bytes.resize(4096, 0);
            table.extend_from_slice(&((start + page) as u32).to_le_bytes());
            table.extend_from_slice(&Sha256::digest(bytes));
        }
        last = start + size;
    }
    table.extend_from_slice(&(last as u32).to_le_bytes());
    table.extend_from_slice(&[0; 32]);
    table
}

fn chain_cases(b: &Bench, c: &mut Cases) {
    let leaf = || Template::leaf("Publisher");
    let ca = || Template::root("Intermediate");
    c.accepted("control: leaf", b.with_leaf(leaf()));
    c.accepted("control: intermediate", b.with_intermediate(ca()));
    c.accepted("control: no keyUsage", b.with_leaf(Template { usage: None, ..leaf() }));
    c.accepted("control: no key identifiers", b.with_leaf(Template { key_ids: false, ..leaf() }));
    c.accepted("control: an intermediate for code signing", {
        b.with_intermediate(Template { ekus: vec![CODE_SIGNING], ..ca() })
    });
    let mut leafs = |name: &str, reason: &'static str, template: Template| {
        c.refused(name, b.with_leaf(template), reason);
    };
    leafs("a leaf for servers", "wrong_purpose", Template { ekus: vec![SERVER_AUTH], ..leaf() });
    leafs("a leaf for timestamps", "wrong_purpose", Template { ekus: vec![TIME_STAMPING], ..leaf() });
    leafs("a leaf without purpose", "wrong_purpose", Template { ekus: vec![], ..leaf() });
    leafs("a leaf for any purpose", "wrong_purpose", Template { ekus: vec!["2.5.29.37.0"], ..leaf() });
    leafs("a leaf that may not sign", "wrong_purpose", Template { usage: Some(vec![5, 0x20]), ..leaf() });
    leafs("an authority signs", "bad_path", Template { basic: Some((true, None)), ..leaf() });
    leafs("an expired leaf", "expired", Template { not_after: "260101000000Z".into(), ..leaf() });
    leafs("a leaf of the future", "not_yet_valid", Template { not_before: "300101000000Z".into(), ..leaf() });
    leafs("a leaf that ends before it begins", "expired", {
        Template { not_before: "250101000000Z".into(), not_after: "240101000000Z".into(), ..leaf() }
    });
    leafs("an unknown critical extension", "bad_path", {
        Template { extra: vec![extension("1.2.3.4.5", true, null())], ..leaf() }
    });
    leafs("an extension twice", "malformed", {
        Template { extra: vec![extension("2.5.29.19", true, seq(&[]))], ..leaf() }
    });
    leafs("version 1", "wrong_purpose", Template { version: 0, ..leaf() });
    leafs("version 9", "malformed", Template { version: 8, ..leaf() });
    leafs("a leaf signed with SHA-1", "weak_algorithm", {
        Template { algorithm: Some(seq(&[oid("1.2.840.10045.4.1")])), ..leaf() }
    });
    leafs("a leaf signed with MD5", "weak_algorithm", {
        Template { algorithm: Some(seq(&[oid("1.2.840.113549.1.1.4"), null()])), ..leaf() }
    });
    leafs("a leaf signed with an unknown algorithm", "unsupported", {
        Template { algorithm: Some(seq(&[oid("1.2.3.4")])), ..leaf() }
    });
    leafs("a date that is none", "malformed", Template { not_after: "261399000000Z".into(), ..leaf() });

    let mut middles = |name: &str, reason: &'static str, template: Template| {
        c.refused(name, b.with_intermediate(template), reason);
    };
    middles("an intermediate that is no authority", "bad_path", Template { basic: Some((false, None)), ..ca() });
    middles("an intermediate without basicConstraints", "bad_path", Template { basic: None, ..ca() });
    middles("an intermediate of version 1", "bad_path", Template { version: 0, ..ca() });
    middles("an intermediate that may not issue", "wrong_purpose", Template { usage: Some(vec![7, 0x80]), ..ca() });
    middles("an intermediate for servers alone", "wrong_purpose", Template { ekus: vec![SERVER_AUTH], ..ca() });
    middles("an expired intermediate", "expired", Template { not_after: "260101000000Z".into(), ..ca() });
    middles("name constraints", "bad_path", {
        Template { extra: vec![extension("2.5.29.30", false, seq(&[]))], ..ca() }
    });

    // The chain itself.
    let forge = |leaf: &Entity, issuers: &[&Entity]| b.file(&Forge::new(&b.pe, leaf, issuers));
    let other_root = Entity::issue(Template::root("Other Root"), Key::p256(7), None);
    let other = Entity::issue(leaf(), Key::p256(2), Some(&other_root));
    c.refused("a root that is not given", forge(&other, &[&other_root]), "untrusted");
    let twin = Entity::issue(Template::root("Root"), Key::p256(7), None);
    let under_twin = Entity::issue(leaf(), Key::p256(2), Some(&twin));
    c.refused("a root of the same name", forge(&under_twin, &[&twin]), "untrusted");
    let bare_twin = Entity::issue(Template { key_ids: false, ..Template::root("Root") }, Key::p256(7), None);
    let bare = Entity::issue(Template { key_ids: false, ..leaf() }, Key::p256(2), Some(&bare_twin));
    c.refused("a root of the same name without key identifiers", forge(&bare, &[&bare_twin]), "untrusted");
    let alone = Entity::issue(leaf(), Key::p256(2), None);
    c.refused("a self-signed leaf", forge(&alone, &[&alone]), "untrusted");
    let middle = Entity::issue(ca(), Key::p256(5), Some(&b.root));
    let under = Entity::issue(leaf(), Key::p256(2), Some(&middle));
    let mut without = Forge::new(&b.pe, &under, &[&middle, &b.root]);
    without.certificates.remove(1);
    c.refused("the intermediate is missing", b.file(&without), "untrusted");
    let narrow = Entity::issue(Template { basic: Some((true, Some(0))), ..ca() }, Key::p256(5), Some(&b.root));
    let second = Entity::issue(Template::root("Second"), Key::p256(6), Some(&narrow));
    let deep = Entity::issue(leaf(), Key::p256(2), Some(&second));
    c.refused("path length 0 with an authority below", forge(&deep, &[&second, &narrow]), "bad_path");
    let by_leaf = Entity::issue(Template::leaf("Victim"), Key::p256(8), Some(&b.leaf));
    c.refused("a leaf issued by a leaf", forge(&by_leaf, &[&b.leaf, &b.root]), "bad_path");
    let mut long = vec![b.root.clone()];
    for i in 0..12 {
        let name = format!("Level {i}");
        long.push(Entity::issue(Template::root(&name), Key::p256(20 + i), long.last()));
    }
    let end = Entity::issue(leaf(), Key::p256(2), long.last());
    let issuers: Vec<&Entity> = long.iter().rev().collect();
    c.refused("a path of fourteen", forge(&end, &issuers), "untrusted");
    // Each of these could have issued each other: a search without bounds would not end.
    let crossed: Vec<Entity> = (0..40)
        .map(|i| {
            let template = Template { serial: 1000 + i, key_ids: false, ..Template::root("Crossed") };
            Entity::issue(template, Key::p256(7), None)
        })
        .collect();
    let crossed_leaf = Entity::issue(Template { key_ids: false, ..leaf() }, Key::p256(2), Some(&crossed[0]));
    c.refused("forty crossed authorities", forge(&crossed_leaf, &crossed.iter().collect::<Vec<_>>()), "untrusted");
    let small = Entity::issue(leaf(), Key::rsa(1024, 0), Some(&b.root));
    c.refused("a leaf with RSA-1024", forge(&small, &[&b.root]), "weak_algorithm");
    let mut flipped = b.leaf.clone();
    *flipped.der.last_mut().unwrap() ^= 1;
    c.refused("a leaf whose signature is changed", forge(&flipped, &[&b.root]), "untrusted");
    let mut renamed = b.leaf.clone();
    let at = renamed.der.windows(9).position(|w| w == b"Publisher").unwrap();
    renamed.der[at] = b'p';
    c.refused("a leaf whose subject is changed", forge(&renamed, &[&b.root]), "untrusted");
    // A decoy with the leaf's issuer and serial number.
    let decoy =
        Entity::issue(Template { subject: "Decoy".into(), ..b.leaf.template.clone() }, Key::p256(9), Some(&b.root));
    let mut both = b.forge();
    both.certificates.insert(0, decoy.der.clone());
    c.accepted("control: a decoy beside the leaf", b.file(&both));
    let mut only = b.forge();
    only.certificates[0] = decoy.der;
    c.refused("a decoy for the leaf", b.file(&only), "bad_signature");
    let mut duplicate = b.forge();
    duplicate.certificates.push(duplicate.certificates[0].clone());
    c.accepted("control: a certificate twice", b.file(&duplicate));
}

fn policy_cases(b: &Bench, c: &mut Cases) {
    let file = b.signed();
    let mut with = |name: &str, reason: &'static str, change: &dyn Fn(&mut TrustPolicy)| {
        let mut trust = b.trust();
        change(&mut trust);
        c.refused_by(name, file.clone(), reason, trust);
    };
    let leaf = Certificate::from_der(&b.leaf.der).unwrap();
    let root = Certificate::from_der(&b.root.der).unwrap();
    let list = |key: &Entity, this, next, entries: &[(u64, &str, Option<u8>)]| {
        RevocationList::from_bytes(&key.crl(this, next, entries)).unwrap()
    };
    with("no roots", "untrusted", &|t| t.roots.clear());
    with("another publisher", "wrong_publisher", &|t| {
        t.publishers.push(Publisher { common_name: Some("Somebody".into()), ..Publisher::default() });
    });
    with("the publisher's name in another case", "wrong_publisher", &|t| {
        t.publishers.push(Publisher { common_name: Some("publisher".into()), ..Publisher::default() });
    });
    with("right name, wrong organisation", "wrong_publisher", &|t| {
        let (common_name, organisation) = (Some("Publisher".into()), Some("Another Org".into()));
        t.publishers.push(Publisher { common_name, organisation, ..Publisher::default() });
    });
    with("another thumbprint", "wrong_publisher", &|t| {
        t.publishers.push(Publisher { thumbprint: Some(vec![0; 32]), ..Publisher::default() });
    });
    with("an empty publisher matches nobody", "wrong_publisher", &|t| t.publishers.push(Publisher::default()));
    with("a purpose more", "wrong_purpose", &|t| {
        t.required_ekus.push(ObjectIdentifier::new("1.3.6.1.4.1.311.10.3.6").unwrap());
    });
    with("a timestamp is required", "timestamp_missing", &|t| t.timestamp_required = true);
    with("the leaf is denied", "denied_certificate", &|t| {
        t.denied_certificates.insert(leaf.sha256());
    });
    with("the leaf is denied by SHA-1", "denied_certificate", &|t| {
        t.denied_certificates.insert(leaf.sha1());
    });
    with("the root is denied", "denied_certificate", &|t| {
        t.denied_certificates.insert(root.sha256());
    });
    with("the file is denied by its digest", "denied_file", &|t| {
        t.denied_files.insert(digest(&b.pe));
    });
    with("the file is denied by its hash", "denied_file", &|t| {
        use sha2::Digest;
        t.denied_files.insert(sha2::Sha256::digest(&file).to_vec());
    });
    let serial = b.leaf.template.serial;
    with("revoked", "revoked", &|t| {
        t.revocation_lists.push(list(&b.root, "261101000000Z", "270101000000Z", &[(serial, "260701000000Z", None)]));
    });
    with("revoked in an old list", "revoked", &|t| {
        t.revocation_lists.push(list(&b.root, "250101000000Z", "250201000000Z", &[(serial, "250101000000Z", None)]));
    });
    with("revoked for a compromised key", "revoked", &|t| {
        t.revocation_lists.push(list(&b.root, "261101000000Z", "270101000000Z", &[(serial, "260701000000Z", Some(1))]));
    });
    with("revocation is asked for, no list", "revocation_unknown", &|t| t.revocation_required = true);
    with("revocation is asked for, the list is old", "revocation_unknown", &|t| {
        t.revocation_required = true;
        t.revocation_lists.push(list(&b.root, "250101000000Z", "250201000000Z", &[]));
    });
    with("revocation is asked for, the list is another's", "revocation_unknown", &|t| {
        t.revocation_required = true;
        t.revocation_lists.push(list(&b.tsa_root, "261101000000Z", "270101000000Z", &[]));
    });
    with("revocation is asked for, the list is forged", "revocation_unknown", &|t| {
        t.revocation_required = true;
        let forger = Entity { key: Key::p256(9), ..b.root.clone() };
        t.revocation_lists.push(list(&forger, "261101000000Z", "270101000000Z", &[]));
    });
    let bad_sum = edit(&file, |f| put32(f, CHECKSUM, 1));
    let trust = TrustPolicy { checksum_required: true, ..b.trust() };
    c.refused_by("the checksum is asked for", bad_sum, "checksum_mismatch", trust);
}

fn timestamp_cases(b: &Bench, c: &mut Cases) {
    let nothing = |_: &mut Forge| {};
    c.accepted("control: timestamp", b.stamped(&b.tsa, |_| {}, nothing));
    let mut tokens = |name: &str, change: &dyn Fn(&mut Token)| {
        c.refused(name, b.stamped(&b.tsa, change, nothing), "bad_timestamp");
    };
    tokens("imprint of another signature", &|t| t.imprint = vec![7; 32]);
    tokens("imprint by SHA-1", &|t| (t.imprint_algorithm, t.imprint) = (SHA1.into(), vec![7; 20]));
    tokens("imprint by an unknown algorithm", &|t| t.imprint_algorithm = "1.2.3".into());
    tokens("imprint under another algorithm's name", &|t| t.imprint_algorithm = SHA384.into());
    tokens("TSTInfo version 2", &|t| t.version = 2);
    tokens("a time that is none", &|t| t.time = "soon".into());
    tokens("a time without zone", &|t| t.time = "20260601120000".into());
    tokens("a time before the authority's certificate", &|t| t.time = "20190601120000Z".into());
    tokens("a time after the authority's certificate", &|t| t.time = "20410601120000Z".into());
    tokens("an extension of TSTInfo", &|t| t.extra = tlv(0xa1, &seq(&[])));
    tokens("an unknown field of TSTInfo", &|t| t.extra = null());
    tokens("no signing certificate named", &|t| t.certificate_hash = None);
    tokens("another signing certificate named", &|t| t.certificate_hash = Some(vec![0; 32]));
    let mut forged = |name: &str, change: &dyn Fn(&mut Forge)| {
        c.refused(name, b.stamped(&b.tsa, |_| {}, change), "bad_timestamp");
    };
    forged("token: version 1", &|f| f.version = 1);
    forged("token: content is not TSTInfo", &|f| f.content_type = "1.2.840.113549.1.7.1".into());
    forged("token: content not in an OCTET STRING", &|f| f.content = parts(&f.content)[0].1.clone());
    forged("token: no signed attributes", &|f| f.attributes = None);
    forged("token: contentType of Authenticode", &|f| {
        f.attributes.as_mut().unwrap()[0] = attribute(CONTENT_TYPE, &[oid(SPC_INDIRECT_DATA)]);
    });
    forged("token: another key", &|f| f.key = Key::p256(9));
    forged("token: a changed signature", &|f| {
        let mut signature = f.signature();
        *signature.last_mut().unwrap() ^= 1;
        f.signature = Some(signature);
    });
    forged("token: no certificate", &|f| f.certificates.clear());
    forged("token: the authority's digest is SHA-1", &|f| f.digest = algorithm(SHA1));
    forged("token: two signers", &|f| f.more_signers.push(f.signer()));
    let mut authorities = |name: &str, template: Template| {
        let tsa = Entity::issue(template, Key::p256(4), Some(&b.tsa_root));
        c.refused(name, b.stamped(&tsa, |_| {}, nothing), "bad_timestamp");
    };
    let tsa = || Template::tsa("TSA");
    authorities("authority: purpose not critical", Template { eku_critical: false, ..tsa() });
    authorities("authority: a second purpose", Template { ekus: vec![TIME_STAMPING, CODE_SIGNING], ..tsa() });
    authorities("authority: for code signing", Template { ekus: vec![CODE_SIGNING], ..tsa() });
    authorities("authority: no purpose", Template { ekus: vec![], ..tsa() });
    authorities("authority: expired then", Template { not_after: "260101000000Z".into(), ..tsa() });
    authorities("authority: not yet valid then", Template { not_before: "260701000000Z".into(), ..tsa() });
    authorities("authority: is an issuer", Template { basic: Some((true, None)), ..tsa() });

    let mut garbage = b.forge();
    garbage.signature = Some(garbage.signature());
    garbage.unsigned.push(attribute(RFC3161, &[octets(&[1, 2, 3])]));
    c.refused("a token that is none", b.file(&garbage), "unsupported");
    let mut empty = b.forge();
    empty.unsigned.push(attribute(RFC3161, &[seq(&[])]));
    c.refused("an empty token", b.file(&empty), "bad_timestamp");

    // An expired leaf: only a good and trusted timestamp helps.
    let expired = Entity::issue(
        Template { not_after: "260701000000Z".into(), ..Template::leaf("Publisher") },
        Key::p256(2),
        Some(&b.root),
    );
    let stamped = |tsa: &Entity, tsa_root: &Entity, time: &str| {
        let mut forge = Forge::new(&b.pe, &expired, &[&b.root]);
        let signature = forge.signature();
        let token = Token { time: time.to_owned(), ..Token::over(&signature, tsa) };
        forge.signature = Some(signature);
        forge.unsigned.push(attribute(RFC3161, &[token.forge(tsa, &[tsa_root]).finish()]));
        b.file(&forge)
    };
    c.accepted("control: expired, stamped before", stamped(&b.tsa, &b.tsa_root, "20260601120000Z"));
    c.refused("expired, stamped after", stamped(&b.tsa, &b.tsa_root, "20260801120000Z"), "expired");
    let other_root = Entity::issue(Template::root("Other TSA Root"), Key::p256(7), None);
    let other = Entity::issue(Template::tsa("Other TSA"), Key::p256(8), Some(&other_root));
    c.refused("expired, stamped by somebody unknown", stamped(&other, &other_root, "20260601120000Z"), "expired");
    let lifetime = Template {
        not_after: "260701000000Z".into(),
        ekus: vec![CODE_SIGNING, "1.3.6.1.4.1.311.10.3.13"],
        ..Template::leaf("Publisher")
    };
    let lifetime = Entity::issue(lifetime, Key::p256(2), Some(&b.root));
    let mut forge = Forge::new(&b.pe, &lifetime, &[&b.root]);
    let signature = forge.signature();
    forge.signature = Some(signature.clone());
    forge.unsigned.push(attribute(RFC3161, &[Token::over(&signature, &b.tsa).forge(&b.tsa, &[&b.tsa_root]).finish()]));
    c.refused("expired, lifetime signing, stamped before", b.file(&forge), "expired");
    let required = TrustPolicy { timestamp_required: true, ..b.trust() };
    let unknown = {
        let mut forge = b.forge();
        let signature = forge.signature();
        forge.signature = Some(signature.clone());
        forge
            .unsigned
            .push(attribute(RFC3161, &[Token::over(&signature, &other).forge(&other, &[&other_root]).finish()]));
        b.file(&forge)
    };
    c.accepted("control: a stamp of somebody unknown does not harm", unknown.clone());
    c.refused_by("a trusted stamp is asked for", unknown, "timestamp_missing", required);
}

fn nested_cases(b: &Bench, c: &mut Cases) {
    let nest = |inner: Vec<Vec<u8>>| {
        let mut forge = b.forge();
        forge.unsigned.push(attribute(NESTED, &inner));
        b.file(&forge)
    };
    let good = b.forge().finish();
    c.accepted("control: nested", nest(vec![good.clone()]));
    let other_pe = Shape { overlay: 8, ..Shape::default() }.build();
    let foreign = Forge::new(&other_pe, &b.leaf, &[&b.root]).finish();
    c.refused("nested: of another file", nest(vec![foreign]), "digest_mismatch");
    c.refused("nested: garbage", nest(vec![octets(b"hello")]), "malformed");
    c.refused("nested: an empty sequence", nest(vec![seq(&[])]), "malformed");
    let mut twice = b.forge();
    twice.unsigned.push(attribute(NESTED, std::slice::from_ref(&good)));
    c.refused("nested: in a nested one", nest(vec![twice.finish()]), "unsupported");
    let mut deep = good.clone();
    for _ in 0..30 {
        let mut forge = b.forge();
        forge.unsigned.push(attribute(NESTED, &[deep]));
        deep = forge.finish();
    }
    c.refused("nested: thirty deep", embed(&b.pe, &deep), "unsupported");
    c.refused("nested: seventeen", nest(vec![good.clone(); 17]), "unsupported");
    let mut bad = b.forge();
    bad.key = Key::p256(9);
    c.refused("nested: a bad signature", nest(vec![bad.finish()]), "bad_signature");
    let mut primary = b.forge();
    primary.key = Key::p256(9);
    primary.unsigned.push(attribute(NESTED, std::slice::from_ref(&good)));
    c.refused("a bad signature with a good one nested", b.file(&primary), "bad_signature");

    // A stranger around, ours nested, and the other way around: one that satisfies the policy is enough.
    let other_root = Entity::issue(Template::root("Other Root"), Key::p256(7), None);
    let other = Entity::issue(Template::leaf("Stranger"), Key::p256(8), Some(&other_root));
    let stranger = Forge::new(&b.pe, &other, &[&other_root]);
    c.accepted("control: a stranger nested", nest(vec![stranger.finish()]));
    let mut around = stranger.clone();
    around.unsigned.push(attribute(NESTED, std::slice::from_ref(&good)));
    c.accepted("control: ours nested in a stranger's", b.file(&around));
    let mut both = stranger.clone();
    both.unsigned.push(attribute(NESTED, &[stranger.finish()]));
    c.refused("strangers all", b.file(&both), "untrusted");
}

#[test]
fn every_mutation_is_refused_for_its_reason() {
    let b = Bench::new();
    let mut c = Cases::default();
    table_cases(&b, &mut c);
    der_cases(&b, &mut c);
    attribute_cases(&b, &mut c);
    content_cases(&b, &mut c);
    chain_cases(&b, &mut c);
    policy_cases(&b, &mut c);
    timestamp_cases(&b, &mut c);
    nested_cases(&b, &mut c);
    let mut wrong = vec![];
    let mut names = std::collections::BTreeSet::new();
    let (mut refused, mut accepted) = (0, 0);
    for Case { name, file, reason, trust } in &c.list {
        assert!(names.insert(name), "two cases named {name}");
        if let Some(folder) = std::env::var_os("HOTGRAFT_FUZZ_SEEDS") {
            let folder = std::path::Path::new(&folder).join("signer_file");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("bad-{:03}", names.len())), file).unwrap();
        }
        let trust = trust.clone().unwrap_or_else(|| b.trust());
        let found = verify(file, &trust, NOW);
        match (&found, reason) {
            (Ok(_), None) => accepted += 1,
            (Err(fault), Some(reason)) if fault.reason() == *reason => refused += 1,
            (Err(fault), _) => wrong.push(format!("{name}: {} ({fault}), wanted {reason:?}", fault.reason())),
            (Ok(_), Some(reason)) => wrong.push(format!("{name}: accepted, wanted {reason}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), c.list.len(), wrong.join("\n"));
    println!("{refused} mutations refused for their reason, {accepted} controls accepted");
    assert!(refused >= 200, "{refused}");
}
