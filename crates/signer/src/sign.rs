//! Signing: whole, in two halves, and the removal of signatures.

use crate::cert::Certificate;
use crate::cms_build::{ToBeSigned, add_unsigned};
use crate::cms_read::{Profile, SignedData};
use crate::digest::{DigestAlgorithm, hex};
use crate::error::SignError;
use crate::fault::{Fault, Place};
use crate::keys::DigestSigner;
use crate::oid;
use crate::options::{Existing, SignOptions, Timestamping};
use crate::page_hashes::{self, PageHasher};
use crate::pe::{CHECKSUM_SIZE, Layout, SECURITY_SIZE, Source, TABLE_ALIGNMENT, Table};
use crate::pubkey::PublicKey;
use crate::scan::{Orders, Scan, checksum, read_in_turn, scan, sum_of};
use crate::spc::{IndirectData, OpusInfo};
use crate::timestamp::stamp;
use std::io::{Seek, SeekFrom, Write};

/// Signs a PE file; returns the signed file.
///
/// # Errors
/// See [`SignError`].
pub fn sign(pe: &[u8], key: &dyn DigestSigner, options: &SignOptions<'_>) -> Result<Vec<u8>, SignError> {
    let mut out = Vec::with_capacity(pe.len() + (16 << 10));
    sign_stream(pe, key, options, &mut out)?;
    Ok(out)
}

/// Signs a PE file of any size: reads it twice, a buffer at a time, and writes the signed file.
///
/// # Errors
/// See [`SignError`]. Nothing is written before the signature and the timestamp are there.
pub fn sign_stream<S: Source + ?Sized>(
    source: &S,
    key: &dyn DigestSigner,
    options: &SignOptions<'_>,
    out: &mut dyn Write,
) -> Result<(), SignError> {
    let prepared = Prepared::new(source, options, None)?;
    let signature = key.sign(options.digest, &prepared.to_be_signed.attributes)?;
    let table = prepared.table(key.certificates(), &signature, options)?;
    prepared.write(source, &table, out)
}

/// As [`sign_stream`], reading the file once: what is hashed is copied to `out` at the same time, and the headers are put
/// right when the signature is there. The same bytes come of it. `out` begins where it stands.
///
/// # Errors
/// See [`SignError`]. What was written before an error is of no use: write to a temporary file.
pub fn sign_file<S: Source + ?Sized, W: Write + Seek + Send>(
    source: &S,
    key: &dyn DigestSigner,
    options: &SignOptions<'_>,
    out: &mut W,
) -> Result<(), SignError> {
    let start = out.stream_position()?;
    let prepared = Prepared::new(source, options, Some(out))?;
    let signature = key.sign(options.digest, &prepared.to_be_signed.attributes)?;
    let table = prepared.table(key.certificates(), &signature, options)?;
    let head = Head::new(&prepared.layout, prepared.padding, &prepared.scanned, &table)?;
    out.write_all(&table)?;
    for (at, bytes) in head.patches() {
        out.seek(SeekFrom::Start(start + at))?;
        out.write_all(bytes)?;
    }
    out.seek(SeekFrom::Start(start + head.size))?;
    Ok(())
}

/// The first half of signing with a key that is elsewhere: what is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToSign {
    /// Digest algorithm of the signature.
    pub algorithm: DigestAlgorithm,
    /// The bytes to be signed, for devices that hash themselves.
    pub message: Vec<u8>,
    /// Their digest, for devices that sign a digest.
    pub digest: Vec<u8>,
}

/// Computes what a key that is elsewhere has to sign. The same options go to [`attach`].
///
/// # Errors
/// See [`SignError`].
pub fn hash_only<S: Source + ?Sized>(source: &S, options: &SignOptions<'_>) -> Result<ToSign, SignError> {
    let message = Prepared::new(source, options, None)?.to_be_signed.attributes;
    Ok(ToSign { algorithm: options.digest, digest: options.digest.digest(&message), message })
}

/// The second half: puts a signature made elsewhere over [`ToSign::message`] into the file. The signature is checked.
///
/// # Errors
/// See [`SignError`]; [`Fault::BadSignature`] when the signature is not that of `certificates[0]` over this file and
/// these options.
pub fn attach<S: Source + ?Sized>(
    source: &S,
    certificates: &[Certificate],
    signature: &[u8],
    options: &SignOptions<'_>,
    out: &mut dyn Write,
) -> Result<(), SignError> {
    let prepared = Prepared::new(source, options, None)?;
    let table = prepared.table(certificates, signature, options)?;
    prepared.write(source, &table, out)
}

/// As [`attach`], with a PKCS#7 SignedData that was finished elsewhere (DER). Its signature is checked, and that it is over
/// this file; who signed is for [`crate::verify`] to judge.
///
/// # Errors
/// See [`SignError`]; [`Fault::DigestMismatch`] when it is the signature of another file.
pub fn attach_pkcs7<S: Source + ?Sized>(
    source: &S,
    pkcs7: &[u8],
    existing: Existing,
    out: &mut dyn Write,
) -> Result<(), SignError> {
    let signed = SignedData::read(pkcs7, Profile::Authenticode)?;
    let data = IndirectData::read(&signed.content)?;
    signed.check()?;
    let page_hashes = data.pages.is_some();
    let options = SignOptions { digest: data.algorithm, existing, page_hashes, ..SignOptions::default() };
    let prepared = Prepared::new(source, &options, None)?;
    let computed = prepared.scanned.digest(data.algorithm);
    if computed != data.digest {
        return Err(Fault::DigestMismatch { stated: hex(data.digest), computed: hex(computed) }.into());
    }
    if let (Some(stated), Some(computed)) = (data.pages, &prepared.scanned.pages) {
        page_hashes::compare(stated, computed)?;
    }
    let table = prepared.nest(pkcs7.to_vec())?;
    prepared.write(source, &table, out)
}

/// Adds a timestamp to the primary signature of a signed file.
///
/// # Errors
/// See [`SignError`]; [`SignError::Timestamp`] when none can be had or there is one already.
pub fn add_timestamp<S: Source + ?Sized>(
    source: &S,
    how: &Timestamping<'_>,
    out: &mut dyn Write,
) -> Result<(), SignError> {
    let layout = Layout::read(source)?;
    let table = layout.read_table(source)?;
    let pkcs7 = stamp(&table.der, how)?;
    let scanned = scan(source, &layout, Orders::default())?;
    write_file(source, &layout, 0, &scanned, &encode_table(&pkcs7)?, out)
}

/// Removes the certificate table with every signature in it, and sets the header's checksum to that of the result.
///
/// # Errors
/// [`SignError::Input`]; with [`Fault::Unsigned`] when there is nothing to remove.
pub fn remove(pe: &[u8]) -> Result<Vec<u8>, SignError> {
    let mut out = Vec::with_capacity(pe.len());
    remove_stream(pe, &mut out)?;
    Ok(out)
}

/// As [`remove`], for a file of any size.
///
/// # Errors
/// As [`remove`], and [`SignError::Io`].
pub fn remove_stream<S: Source + ?Sized>(source: &S, out: &mut dyn Write) -> Result<(), SignError> {
    let layout = Layout::read(source)?;
    layout.read_table(source)?;
    let scanned = scan(source, &layout, Orders::default())?;
    write_file(source, &layout, 0, &scanned, &[], out)
}

/// The PKCS#7 SignedData of a signed file, DER.
///
/// # Errors
/// [`SignError::Input`]; with [`Fault::Unsigned`] when there is none.
pub fn extract<S: Source + ?Sized>(source: &S) -> Result<Vec<u8>, SignError> {
    Ok(Layout::read(source)?.read_table(source)?.der)
}

/// A file that was read once: everything but the signature.
struct Prepared {
    layout: Layout,
    /// Zero bytes between the file and the certificate table.
    padding: usize,
    scanned: Scan,
    to_be_signed: ToBeSigned,
    /// The signature that is to be kept.
    existing: Option<Vec<u8>>,
}

impl Prepared {
    /// Reads the file, and copies what is hashed where that is wanted.
    fn new<S: Source + ?Sized>(
        source: &S,
        options: &SignOptions<'_>,
        copy: Option<&mut (dyn Write + Send)>,
    ) -> Result<Prepared, SignError> {
        let layout = Layout::read(source)?;
        if !options.ambiguous_layout {
            layout.check_unambiguous()?;
        }
        let existing = match layout.read_table(source) {
            Err(Fault::Unsigned) => None,
            Err(other) => return Err(other.into()),
            Ok(table) => match options.existing {
                Existing::Refuse => return Err(SignError::AlreadySigned),
                Existing::Replace => None,
                Existing::Append => Some(table.der),
            },
        };
        let opus = OpusInfo { description: options.description.clone(), url: options.url.clone() };
        if opus.url.as_ref().is_some_and(|u| !u.is_ascii()) {
            return Err(SignError::Key("the URL must be ASCII (punycode and percent encoding)".to_owned()));
        }
        let end = layout.hashed_end();
        let padding = (end.next_multiple_of(TABLE_ALIGNMENT) - end) as usize;
        let pages = if options.page_hashes { Some(PageHasher::new(&layout)?) } else { None };
        let algorithms = [options.digest];
        let copy = copy.map(|copy| &mut *copy as &mut (dyn Write + Send));
        let orders = Orders { padding, algorithms: &algorithms, pages, whole: false, copy };
        let scanned = scan(source, &layout, orders)?;
        let data = IndirectData {
            algorithm: options.digest,
            digest: scanned.digest(options.digest),
            pages: scanned.pages.as_deref(),
        };
        let to_be_signed = ToBeSigned::new(options.digest, data.encode(), &opus, options.signing_time)?;
        Ok(Prepared { layout, padding, scanned, to_be_signed, existing })
    }

    /// The certificate table with this signature.
    fn table(
        &self,
        certificates: &[Certificate],
        signature: &[u8],
        options: &SignOptions<'_>,
    ) -> Result<Vec<u8>, SignError> {
        let leaf = certificates.first().ok_or_else(|| SignError::Key("there is no certificate".to_owned()))?;
        let public = PublicKey::from_spki(leaf.key(), &leaf.subject_text())?;
        // A wrong pair of key and certificate, a faulty device, a mixed-up file: find it here, not at the user's.
        let digest = options.digest.digest(&self.to_be_signed.attributes);
        if !public.verifies(options.digest, &digest, signature) {
            return Err(Fault::BadSignature { place: Place::SignedData, signer: leaf.subject_text() }.into());
        }
        let mut pkcs7 = self.to_be_signed.finish(certificates, public.scheme(), signature);
        if let Some(how) = &options.timestamp {
            pkcs7 = stamp(&pkcs7, how)?;
        }
        self.nest(pkcs7)
    }

    /// The certificate table with this PKCS#7, nested in the signature that is to be kept.
    fn nest(&self, pkcs7: Vec<u8>) -> Result<Vec<u8>, SignError> {
        encode_table(&match &self.existing {
            Some(primary) => add_unsigned(primary, oid::SPC_NESTED_SIGNATURE, &pkcs7)?,
            None => pkcs7,
        })
    }

    fn write<S: Source + ?Sized>(&self, source: &S, table: &[u8], out: &mut dyn Write) -> Result<(), SignError> {
        write_file(source, &self.layout, self.padding, &self.scanned, table, out)
    }
}

fn encode_table(pkcs7: &[u8]) -> Result<Vec<u8>, SignError> {
    Table::encode(pkcs7).ok_or_else(|| SignError::TooLarge("the certificate table".to_owned()))
}

/// The two fields of the headers that depend on the certificate table.
struct Head {
    checksum: (u64, [u8; CHECKSUM_SIZE as usize]),
    security: (u64, [u8; SECURITY_SIZE as usize]),
    /// Size of the file with the table, bytes.
    size: u64,
}

impl Head {
    /// For a table (empty: none) behind the hashed part of the file and `padding` zeros.
    fn new(layout: &Layout, padding: usize, scanned: &Scan, table: &[u8]) -> Result<Head, SignError> {
        let at = layout.hashed_end() + padding as u64;
        let size = at + table.len() as u64;
        let too_large = |_| SignError::TooLarge(format!("a file of {size} bytes"));
        let mut security = [0; SECURITY_SIZE as usize];
        if !table.is_empty() {
            u32::try_from(size).map_err(too_large)?;
            security[..4].copy_from_slice(&u32::try_from(at).map_err(too_large)?.to_le_bytes());
            security[4..].copy_from_slice(&(table.len() as u32).to_le_bytes());
        }
        // The words of the sum begin at even offsets.
        let odd = layout.security_at % 2 == 1;
        let aligned = if odd { [&[0][..], &security[..]].concat() } else { security.to_vec() };
        let sum = checksum(scanned.sum + sum_of(&aligned) + sum_of(table), size);
        Ok(Head { checksum: (layout.checksum_at, sum.to_le_bytes()), security: (layout.security_at, security), size })
    }

    /// Offset and content of each, in order.
    fn patches(&self) -> [(u64, &[u8]); 2] {
        [(self.checksum.0, &self.checksum.1), (self.security.0, &self.security.1)]
    }
}

/// Puts the two fields into what is copied.
struct Patching<'a> {
    out: &'a mut dyn Write,
    head: &'a Head,
    position: u64,
}

impl Patching<'_> {
    fn write(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        let (position, end) = (self.position, self.position + chunk.len() as u64);
        let mut from = position;
        for (start, bytes) in self.head.patches() {
            let (first, last) = (start.max(position), (start + bytes.len() as u64).min(end));
            if first < last {
                self.out.write_all(&chunk[(from - position) as usize..(first - position) as usize])?;
                self.out.write_all(&bytes[(first - start) as usize..(last - start) as usize])?;
                from = last;
            }
        }
        self.out.write_all(&chunk[(from - position) as usize..])?;
        self.position = end;
        Ok(())
    }
}

/// Writes the hashed part of the file with padding, the table (empty: none), and headers that fit them.
fn write_file<S: Source + ?Sized>(
    source: &S,
    layout: &Layout,
    padding: usize,
    scanned: &Scan,
    table: &[u8],
    out: &mut dyn Write,
) -> Result<(), SignError> {
    let head = Head::new(layout, padding, scanned, table)?;
    let mut patching = Patching { out, head: &head, position: 0 };
    let again = read_in_turn(source, layout, |chunk| patching.write(chunk))?;
    if again != scanned.sum {
        return Err(std::io::Error::other("the file changed while it was read").into());
    }
    out.write_all(&vec![0; padding])?;
    out.write_all(table)?;
    Ok(())
}
