//! The binary layout of `.hgraft`: [`Graft::to_bytes`] and [`Graft::from_bytes`]. `docs/hotpatch-format.md` describes it.
//!
//! Little-endian; a fixed header, tables of fixed records, then a pool of text and byte strings. Every offset is
//! relative to the first byte of the section. There is exactly one encoding of a given content.

use crate::error::{Error, Result};
use crate::graft::{
    BaseIdentity, EntryMethod, GUARD_DIGEST, Graft, GraftFunction, Guarded, GuardedKind, Hook, HookPoint, Hooks,
    NearReference,
};
use sha2::{Digest, Sha256};

/// First bytes of the section.
pub const MAGIC: [u8; 8] = *b"HGRAFT\x1a\n";
/// Version written where nothing needs the later one. Versions 1 and 2 had whole SHA-256 of guarded ranges, which were a fifth
/// of a typical patch, and are not read any more.
pub const VERSION: u32 = 3;
/// Version with who accepted the conditions, and hooks: who knows version 3 alone must not apply such a patch.
pub const VERSION_HOOKS: u32 = 4;

const HEADER: usize = 216;
const HEADER_HOOKS: usize = 264;
const DIGEST_AT: usize = 16;
const DIGEST_END: usize = 48;
const FUNCTION: usize = 40;
const NEAR: usize = 12;
const GUARDED: usize = 20 + GUARD_DIGEST;
const TEXT: usize = 8;
const HOOK: usize = 8;

const HAS_PDB: u16 = 1;
const HAS_KB: u16 = 2;
const IRREVERTIBLE: u16 = 4;
const HAS_ACCEPTED_BY: u16 = 8;
const HAS_HOOKS: u16 = 16;
const REPLACES: u8 = 1;
const QUIESCE: u8 = 2;

impl Graft {
    /// The section's bytes. Fails only if the content needs more than 4 GB.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let extended = self.accepted_by.is_some() || self.hooks.is_some();
        let header = if extended { HEADER_HOOKS } else { HEADER };
        let hooks = self.hooks.as_ref().map(|hooks| hooks.entries.as_slice()).unwrap_or_default();
        let tables = [
            (self.cves.len(), TEXT),
            (self.accepted.len(), TEXT),
            (self.functions.len(), FUNCTION),
            (self.near.len(), NEAR),
            (self.guarded.len(), GUARDED),
            (hooks.len(), HOOK),
        ];
        let mut at = header;
        let mut directory = Vec::new();
        for (count, size) in tables {
            directory.push((at, count));
            at += count * size;
        }
        let mut w = Writer { fixed: Vec::with_capacity(at), pool: Vec::new(), pool_at: at };
        w.raw(&MAGIC);
        w.u32(if extended { VERSION_HOOKS } else { VERSION });
        w.u32(0);
        w.raw(&[0; 32]);
        w.u32(self.sequence);
        w.u16(self.base.machine);
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        w.u16(
            flag(self.base.pdb.is_some(), HAS_PDB)
                | flag(self.kb.is_some(), HAS_KB)
                | flag(self.irrevertible.is_some(), IRREVERTIBLE)
                | flag(self.accepted_by.is_some(), HAS_ACCEPTED_BY)
                | flag(self.hooks.is_some(), HAS_HOOKS),
        );
        w.u32(self.base.timestamp);
        w.u32(self.base.checksum);
        w.u32(self.base.image_size);
        let (guid, age) = self.base.pdb.unwrap_or_default();
        w.raw(&guid);
        w.u32(age);
        w.raw(&self.base.sha256);
        w.raw(&self.new_sha256);
        w.text(self.base.file_name.as_bytes())?;
        w.text(self.kb.as_deref().unwrap_or("").as_bytes())?;
        w.text(self.irrevertible.as_deref().unwrap_or("").as_bytes())?;
        let (last, first) = directory.split_last().ok_or_else(too_large)?;
        for (offset, count) in first {
            w.size(*offset)?;
            w.size(*count)?;
        }
        if extended {
            w.text(self.accepted_by.as_deref().unwrap_or("").as_bytes())?;
            w.raw(&self.hooks.as_ref().map(|hooks| hooks.object_sha256).unwrap_or_default());
            w.size(last.0)?;
            w.size(last.1)?;
        }
        debug_assert_eq!(w.fixed.len(), header);
        for text in self.cves.iter().chain(&self.accepted) {
            w.text(text.as_bytes())?;
        }
        for f in &self.functions {
            w.text(f.name.as_bytes())?;
            for v in [f.base_rva.unwrap_or(0), f.base_size, f.patch_rva, f.patch_size, f.site] {
                w.u32(v);
            }
            w.text(&f.expected)?;
            let flags = if f.base_rva.is_some() { REPLACES } else { 0 } | if f.quiesce { QUIESCE } else { 0 };
            w.raw(&[f.method.map_or(0, |m| m as u8), flags, 0, 0]);
        }
        for n in &self.near {
            w.u32(n.site);
            w.u32(n.origin);
            w.u32(n.target);
        }
        for g in &self.guarded {
            w.u32(g.rva);
            w.u32(g.size);
            w.u32(g.kind as u32);
            w.text(g.name.as_bytes())?;
            w.raw(&g.digest);
        }
        for hook in hooks {
            w.u32(hook.point as u32);
            w.u32(hook.patch_rva);
        }
        debug_assert_eq!(w.fixed.len(), at);
        let mut out = w.fixed;
        out.extend_from_slice(&w.pool);
        let length = u32::try_from(out.len()).map_err(|_| too_large())?;
        out[12..16].copy_from_slice(&length.to_le_bytes());
        let digest = digest(&out);
        out[DIGEST_AT..DIGEST_END].copy_from_slice(&digest);
        Ok(out)
    }

    /// Read the section. Bytes behind the length that the header states are ignored (file alignment).
    ///
    /// Fails if the magic, the version or the digest is another, if any offset or count leads outside, if text is not
    /// UTF-8, or if a value has no meaning.
    pub fn from_bytes(bytes: &[u8]) -> Result<Graft> {
        let header = bytes.get(..HEADER).ok_or_else(|| fail("header", 0, "216 bytes"))?;
        if header[..8] != MAGIC {
            return Err(fail("magic", 0, "48 47 52 41 46 54 1a 0a"));
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let extended = match word(8) {
            VERSION => false,
            VERSION_HOOKS => true,
            _ => return Err(fail("version", 8, "version 3 or 4")),
        };
        let least = if extended { HEADER_HOOKS } else { HEADER };
        let length = word(12) as usize;
        let data = bytes
            .get(..length)
            .filter(|d| d.len() >= least)
            .ok_or_else(|| fail("length", 12, "at least the header and at most the section"))?;
        if digest(data) != data[DIGEST_AT..DIGEST_END] {
            return Err(fail("digest", DIGEST_AT as u32, "the SHA-256 of the rest of the section"));
        }
        let mut r = Reader { data, at: DIGEST_END, budget: length };
        let sequence = r.u32()?;
        let machine = r.u16()?;
        let flags = r.u16()?;
        let known = HAS_PDB | HAS_KB | IRREVERTIBLE | if extended { HAS_ACCEPTED_BY | HAS_HOOKS } else { 0 };
        if flags & !known != 0 {
            return Err(fail("flags", 54, "flags that this version defines"));
        }
        let (timestamp, checksum, image_size) = (r.u32()?, r.u32()?, r.u32()?);
        let guid = r.array::<16>()?;
        let age = r.u32()?;
        let sha256 = r.array::<32>()?;
        let new_sha256 = r.array::<32>()?;
        let file_name = r.string()?;
        let kb = r.string()?;
        let irrevertible = r.string()?;
        let base = BaseIdentity {
            file_name,
            machine,
            timestamp,
            checksum,
            image_size,
            pdb: (flags & HAS_PDB != 0).then_some((guid, age)),
            sha256,
        };
        let cves = r.table("CVE ids", TEXT, Reader::string)?;
        let accepted = r.table("accepted conditions", TEXT, Reader::string)?;
        let functions = r.table("functions", FUNCTION, Reader::function)?;
        let near = r.table("near references", NEAR, |r| {
            Ok(NearReference { site: r.u32()?, origin: r.u32()?, target: r.u32()? })
        })?;
        let guarded = r.table("guarded ranges", GUARDED, Reader::guarded)?;
        let (mut accepted_by, mut hooks) = (None, None);
        if extended {
            accepted_by = Some(r.string()?).filter(|_| flags & HAS_ACCEPTED_BY != 0);
            let object_sha256 = r.array::<32>()?;
            let entries = r.table("hooks", HOOK, Reader::hook)?;
            hooks = (flags & HAS_HOOKS != 0).then_some(Hooks { object_sha256, entries });
        }
        Ok(Graft {
            base,
            sequence,
            kb: (flags & HAS_KB != 0).then_some(kb),
            cves,
            accepted,
            accepted_by,
            hooks,
            new_sha256,
            functions,
            near,
            guarded,
            irrevertible: (flags & IRREVERTIBLE != 0).then_some(irrevertible),
        })
    }
}

/// SHA-256 over the section without the digest itself.
fn digest(data: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(&data[..DIGEST_AT]);
    hash.update(&data[DIGEST_END..]);
    hash.finalize().into()
}

fn fail(what: &'static str, at: u32, expected: &str) -> Error {
    Error::Graft { what, at, expected: expected.to_owned() }
}

fn too_large() -> Error {
    Error::Write { what: ".hgraft", why: "more than 4 GB".into() }
}

struct Writer {
    fixed: Vec<u8>,
    pool: Vec<u8>,
    pool_at: usize,
}

impl Writer {
    fn raw(&mut self, bytes: &[u8]) {
        self.fixed.extend_from_slice(bytes);
    }
    fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }
    fn size(&mut self, value: usize) -> Result<()> {
        self.u32(u32::try_from(value).map_err(|_| too_large())?);
        Ok(())
    }
    fn text(&mut self, bytes: &[u8]) -> Result<()> {
        self.size(self.pool_at + self.pool.len())?;
        self.size(bytes.len())?;
        self.pool.extend_from_slice(bytes);
        Ok(())
    }
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    /// Bytes of the pool that may still be copied out: no byte is used twice, so strings cannot multiply the input.
    budget: usize,
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let end = self.at.saturating_add(N);
        let bytes = self
            .data
            .get(self.at..end)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| fail("field", self.at as u32, "a position inside the section"))?;
        self.at = end;
        Ok(bytes)
    }
    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn pooled(&mut self) -> Result<&'a [u8]> {
        let field = self.at as u32;
        let (offset, len) = (self.u32()? as usize, self.u32()? as usize);
        self.budget =
            self.budget.checked_sub(len).ok_or_else(|| fail("string", field, "strings that do not overlap"))?;
        offset
            .checked_add(len)
            .and_then(|end| self.data.get(offset..end))
            .ok_or_else(|| fail("string", field, "bytes inside the section"))
    }
    fn string(&mut self) -> Result<String> {
        let field = self.at as u32;
        String::from_utf8(self.pooled()?.to_vec()).map_err(|_| fail("string", field, "UTF-8"))
    }
    fn table<T>(
        &mut self,
        what: &'static str,
        size: usize,
        mut one: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let field = self.at as u32;
        let (offset, count) = (self.u32()? as usize, self.u32()? as usize);
        let back = self.at;
        count
            .checked_mul(size)
            .and_then(|len| offset.checked_add(len))
            .filter(|end| *end <= self.data.len())
            .ok_or_else(|| fail(what, field, "a table inside the section"))?;
        self.at = offset;
        let out = (0..count).map(|_| one(self)).collect();
        self.at = back;
        out
    }
    fn function(&mut self) -> Result<GraftFunction> {
        let start = self.at as u32;
        let name = self.string()?;
        let base_rva = self.u32()?;
        let (base_size, patch_rva, patch_size, site) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let expected = self.pooled()?.to_vec();
        let [method, flags, zero0, zero1] = self.array::<4>()?;
        let method = match method {
            0 => None,
            1 => Some(EntryMethod::PaddedShortJump),
            2 => Some(EntryMethod::NearJump),
            _ => return Err(fail("function", start, "an entry method from 0 to 2")),
        };
        if flags & !(REPLACES | QUIESCE) != 0 || zero0 != 0 || zero1 != 0 {
            return Err(fail("function", start, "flags that this version defines"));
        }
        Ok(GraftFunction {
            name,
            base_rva: (flags & REPLACES != 0).then_some(base_rva),
            base_size,
            patch_rva,
            patch_size,
            method,
            site,
            expected,
            quiesce: flags & QUIESCE != 0,
        })
    }
    fn hook(&mut self) -> Result<Hook> {
        let start = self.at as u32;
        let number = self.u32()?;
        let point = HookPoint::ALL.into_iter().find(|point| *point as u32 == number);
        let point = point.ok_or_else(|| fail("hook", start, "a point from 1 to 4"))?;
        Ok(Hook { point, patch_rva: self.u32()? })
    }
    fn guarded(&mut self) -> Result<Guarded> {
        let start = self.at as u32;
        let (rva, size) = (self.u32()?, self.u32()?);
        let kind = match self.u32()? {
            1 => GuardedKind::Replaced,
            2 => GuardedKind::Function,
            3 => GuardedKind::Constant,
            _ => return Err(fail("guarded range", start, "a kind from 1 to 3")),
        };
        let name = self.string()?;
        Ok(Guarded { rva, size, kind, digest: self.array()?, name })
    }
}
