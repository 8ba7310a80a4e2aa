//! Verification: everything that can be said about the signatures of a file under a trust policy.

use crate::asn1::tag;
use crate::cert::Certificate;
use crate::chain::Wanted;
use crate::cms_read::{Profile, SignedData, Signer};
use crate::digest::{DigestAlgorithm, Hasher, hex};
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use crate::page_hashes::{self, PageHasher};
use crate::pe::{Layout, Source, Table};
use crate::policy::TrustPolicy;
use crate::report::{Checksum, Identity, SignatureReport, TimestampReport, VerifyReport};
use crate::scan::{Orders, Scan, checksum, scan, sum_of};
use crate::spc::{IndirectData, OpusInfo};
use crate::time::UnixTime;
use crate::token;

/// Nested signatures in one file, at most.
const MOST_NESTED: usize = 16;

/// Verifies a PE file: its digest, its signatures, their chains, timestamps and the policy. `now` counts where there is
/// no trusted timestamp.
///
/// The file is accepted when every signature in it is intact and at least one satisfies the policy.
///
/// # Errors
/// The first fault that keeps the file from being accepted; [`Fault::Unsigned`] only if there is no certificate table.
pub fn verify(pe: &[u8], trust: &TrustPolicy, now: UnixTime) -> Checked<VerifyReport> {
    let mut report = examine(pe, trust, now);
    match report.fault.take() {
        Some(fault) => Err(fault),
        None => Ok(report),
    }
}

/// As [`verify`], for a file of any size, and with a report in any case: [`VerifyReport::fault`] says why the file is not
/// accepted.
pub fn examine<S: Source + ?Sized>(source: &S, trust: &TrustPolicy, now: UnixTime) -> VerifyReport {
    examination(source, trust, now, !trust.denied_files.is_empty())
}

/// As [`examine`], and [`VerifyReport::sha256`] is that of the whole file, in the same pass where there is one.
///
/// # Errors
/// When reading fails.
pub fn examine_and_hash<S: Source + ?Sized>(
    source: &S,
    trust: &TrustPolicy,
    now: UnixTime,
) -> std::io::Result<VerifyReport> {
    let mut report = examination(source, trust, now, true);
    if report.sha256.is_none() {
        report.sha256 = Some(hex(&hash_of_file(source)?));
    }
    Ok(report)
}

fn examination<S: Source + ?Sized>(source: &S, trust: &TrustPolicy, now: UnixTime, whole: bool) -> VerifyReport {
    let mut report = VerifyReport {
        accepted: None,
        fault: None,
        signatures: Vec::new(),
        checksum: None,
        size: source.size(),
        sha256: None,
        overlay: 0,
        checked: Vec::new(),
        not_checked: Vec::new(),
    };
    let mut examination = Examination { source, trust, now, whole, report: &mut report };
    if let Err(fault) = examination.run() {
        report.accepted = None;
        report.fault = Some(fault);
    }
    report
}

fn hash_of_file<S: Source + ?Sized>(source: &S) -> std::io::Result<Vec<u8>> {
    let mut hasher = Hasher::new(DigestAlgorithm::Sha256);
    let (mut at, size) = (0, source.size());
    let mut buffer = vec![0; 64 << 10];
    while at < size {
        let length = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        source.read_at(at, &mut buffer[..length])?;
        hasher.update(&buffer[..length]);
        at += length as u64;
    }
    Ok(hasher.finish())
}

/// What is done in turn with every file; a fault in one keeps the ones after it from being reached.
const STEPS: [&str; 4] = [
    "certificate table: one, exact lengths, zero padding, at the end of the file",
    "layout: raw sections without gap or overlap",
    "every signature: digest of the file, signed attributes, signature value",
    "path to a given root: signatures, purposes, validity, deny list",
];

struct Examination<'a, S: Source + ?Sized> {
    source: &'a S,
    trust: &'a TrustPolicy,
    now: UnixTime,
    /// Whether the SHA-256 of the whole file is wanted.
    whole: bool,
    report: &'a mut VerifyReport,
}

/// One signature, read but not judged.
struct Found<'a> {
    signed: SignedData<'a>,
    /// What it says about the file; a fault when the algorithm is too weak to look at.
    data: Checked<IndirectData<'a>>,
}

impl<'a> Found<'a> {
    fn read(der: &'a [u8]) -> Checked<Found<'a>> {
        let signed = SignedData::read(der, Profile::Authenticode)?;
        let data = match IndirectData::read(&signed.content) {
            Err(fault) if !is_weak(&fault) => return Err(fault),
            other => other,
        };
        for (id, _) in &signed.unsigned {
            // Whatever is not signed can be put there by anyone: accept what has a meaning here, nothing else.
            if ![oid::SPC_NESTED_SIGNATURE, oid::SPC_RFC3161, oid::COUNTER_SIGNATURE].contains(id) {
                return Err(Fault::unsupported(Place::SignedData, format!("unsigned attribute {id}")));
            }
        }
        Ok(Found { signed, data })
    }
}

fn is_weak(fault: &Fault) -> bool {
    matches!(fault, Fault::WeakAlgorithm { .. })
}

impl<S: Source + ?Sized> Examination<'_, S> {
    fn run(&mut self) -> Checked<()> {
        let mut done = 0;
        let mut legacy = false;
        let mut result = self.run_steps(&mut done, &mut legacy);
        let unread = self.whole && self.report.sha256.is_none();
        if result.is_err() && unread && !self.trust.denied_files.is_empty() {
            // A file that is refused by name is refused for that, whatever else is wrong with it.
            let hash = hash_of_file(self.source).map_err(unreadable)?;
            self.report.sha256 = Some(hex(&hash));
            result = self.trust.check_file(&hash).and(result);
        }
        self.report.checked.extend(STEPS[..done].iter().map(|step| (*step).to_owned()));
        let unreached = STEPS.iter().skip(done + 1).map(|step| format!("{step}: not reached"));
        self.report.not_checked.extend(unreached);
        if done >= 2 {
            self.say_what_else(legacy);
        }
        result
    }

    /// `done` counts the [`STEPS`] that went well.
    fn run_steps(&mut self, done: &mut usize, legacy: &mut bool) -> Checked<()> {
        let layout = Layout::read(self.source)?;
        self.report.overlay = layout.hashed_end().saturating_sub(layout.raw_end);
        let table = layout.read_table(self.source)?;
        *done = 1;
        layout.check_unambiguous()?;
        *done = 2;
        let primary = Found::read(&table.der)?;
        let mut found = vec![];
        let nested = primary.signed.unsigned_values(oid::SPC_NESTED_SIGNATURE)?;
        if nested.len() > MOST_NESTED {
            let form = format!("more than {MOST_NESTED} nested signatures");
            return Err(Fault::unsupported(Place::SignedData, form));
        }
        for value in nested {
            let inner = Found::read(value.raw)?;
            // One level is what Windows and all tools write and read; more could hide anything.
            if !inner.signed.unsigned_values(oid::SPC_NESTED_SIGNATURE)?.is_empty() {
                return Err(Fault::unsupported(Place::SignedData, "a signature nested in a nested signature"));
            }
            found.push(inner);
        }
        found.insert(0, primary);
        *legacy = found.iter().any(|f| f.signed.unsigned.iter().any(|(id, _)| *id == oid::COUNTER_SIGNATURE));

        let scanned = self.scan(&layout, &table, &found)?;
        // Every signature is reported, also after one that condemns the file.
        for (index, one) in found.iter().enumerate() {
            let judged = self.judge(one, index > 0, &scanned);
            if judged.fault.is_none() && self.report.accepted.is_none() {
                self.report.accepted = Some(index);
            }
            self.report.signatures.push(judged);
        }
        let mut faults = self.report.signatures.iter().filter_map(|s| s.fault.as_ref());
        if let Some(fatal) = faults.clone().find(|fault| is_fatal(fault)) {
            return Err(fatal.clone());
        }
        *done = 3;
        if self.report.accepted.is_none() {
            return Err(faults.next().cloned().unwrap_or(Fault::Unsigned));
        }
        *done = 4;
        Ok(())
    }

    /// Reads the file once for all signatures.
    fn scan(&mut self, layout: &Layout, table: &Table, found: &[Found<'_>]) -> Checked<Scan> {
        let known = || found.iter().filter_map(|f| f.data.as_ref().ok());
        let mut algorithms: Vec<DigestAlgorithm> = known().map(|d| d.algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        let pages = if known().any(|d| d.pages.is_some()) { Some(PageHasher::new(layout)?) } else { None };
        let orders = Orders { algorithms: &algorithms, pages, whole: self.whole, ..Orders::default() };
        let mut scanned = scan(self.source, layout, orders).map_err(unreadable)?;

        let mut rest = vec![0; (layout.size - table.at) as usize];
        self.source.read_at(table.at, &mut rest).map_err(unreadable)?;
        if let Some(mut hasher) = scanned.whole.take() {
            hasher.update(&rest);
            let hash = hasher.finish();
            self.report.sha256 = Some(hex(&hash));
            self.trust.check_file(&hash)?;
        }
        let mut security = vec![0; (layout.security_at % 2) as usize];
        security.extend_from_slice(&(layout.table.0 as u32).to_le_bytes());
        security.extend_from_slice(&(layout.table.1 as u32).to_le_bytes());
        let computed = checksum(scanned.sum + sum_of(&security) + sum_of(&rest), layout.size);
        self.report.checksum = Some(Checksum { stated: layout.checksum, computed });
        if self.trust.checksum_required && layout.checksum != computed {
            return Err(Fault::ChecksumMismatch { stated: layout.checksum, computed });
        }
        Ok(scanned)
    }

    fn judge(&self, found: &Found<'_>, nested: bool, scanned: &Scan) -> SignatureReport {
        let mut report = SignatureReport {
            nested,
            signer: found.signed.claimed_signer().map(Certificate::identity),
            chain: Vec::new(),
            digest_algorithm: String::new(),
            digest: String::new(),
            signature_algorithm: String::new(),
            page_hashes: false,
            revocation_checked: false,
            description: None,
            url: None,
            claimed_time: None,
            timestamp: None,
            fault: None,
        };
        report.fault = self.fill(found, scanned, &mut report).err();
        report
    }

    fn fill(&self, found: &Found<'_>, scanned: &Scan, report: &mut SignatureReport) -> Checked<()> {
        let data = found.data.as_ref().map_err(Clone::clone)?;
        report.digest_algorithm = data.algorithm.name().to_owned();
        report.digest = hex(data.digest);
        let computed = scanned.digest(data.algorithm);
        if computed != data.digest {
            return Err(Fault::DigestMismatch { stated: hex(data.digest), computed: hex(computed) });
        }
        self.trust.check_file(computed)?;
        if let Some(stated) = data.pages {
            page_hashes::compare(stated, scanned.pages.as_deref().unwrap_or_default())?;
            report.page_hashes = true;
        }
        let signer = found.signed.check()?;
        if signer.digest != data.algorithm {
            let detail = "the digest algorithms of the file and of the signature differ".to_owned();
            return Err(Fault::AttributeMismatch { place: Place::SignedData, detail });
        }
        report.signer = Some(signer.certificate.identity());
        report.signature_algorithm = signer.scheme.name(signer.digest);
        read_claims(&found.signed, report)?;
        report.timestamp = self.timestamp(&found.signed)?;
        self.check_trust(&found.signed, &signer, report)
    }

    fn timestamp(&self, signed: &SignedData<'_>) -> Checked<Option<TimestampReport>> {
        let tokens = signed.unsigned_values(oid::SPC_RFC3161)?;
        match tokens.as_slice() {
            [] => Ok(None),
            [one] if one.tag == tag::SEQUENCE => {
                token::judge(one.raw, signed.signature, self.trust, self.now).map(Some)
            }
            _ => Err(Fault::unsupported(Place::Timestamp, "more than one timestamp on a signature")),
        }
    }

    fn check_trust(&self, signed: &SignedData<'_>, signer: &Signer, report: &mut SignatureReport) -> Checked<()> {
        let trusted_time = report.timestamp.as_ref().filter(|t| t.fault.is_none()).map(|t| t.time);
        // A certificate for lifetime signing asks that timestamps do not extend its validity.
        let ekus = signer.certificate.extensions().ekus.as_ref();
        let lifetime = ekus.is_some_and(|(ekus, _)| ekus.contains(&oid::LIFETIME_SIGNING));
        let at = match trusted_time {
            Some(time) if !lifetime => time,
            _ => self.now,
        };
        let wanted = Wanted {
            pool: &signed.certificates,
            roots: &self.trust.roots,
            policy: self.trust,
            ekus: &self.trust.required_ekus,
            at,
            at_is_proven: trusted_time.is_some() && !lifetime,
            now: self.now,
        };
        let path = wanted.find(&signer.certificate)?;
        report.chain = path.certificates.iter().map(Certificate::identity).collect();
        report.revocation_checked = path.revocation_checked;
        self.trust.check_publisher(&signer.certificate)?;
        if self.trust.timestamp_required && trusted_time.is_none() {
            let detail = match &report.timestamp {
                Some(TimestampReport { fault: Some(fault), .. }) => fault.to_string(),
                _ => "the signature has none".to_owned(),
            };
            return Err(Fault::TimestampMissing { detail });
        }
        Ok(())
    }

    /// What depends on what the signatures state and the policy wants.
    fn say_what_else(&mut self, legacy: bool) {
        let report = &mut *self.report;
        let checked = &mut report.checked;
        let mut note = |done: bool, what: &str, why: &str| {
            if done { checked.push(what.to_owned()) } else { report.not_checked.push(format!("{what}: {why}")) }
        };
        if let Some(one) = report.signatures.get(report.accepted.unwrap_or(0)) {
            note(one.page_hashes, "page hashes", "the signature states none, or was not read so far");
            let stamped = one.timestamp.as_ref().is_some_and(|t| t.fault.is_none());
            let why = if one.timestamp.is_some() { "its authority leads to no given root" } else { "there is none" };
            note(stamped, "timestamp", why);
            note(one.revocation_checked, "revocation", "no current revocation list covers the path");
            let named = !self.trust.publishers.is_empty() && report.accepted.is_some();
            note(named, "publisher", "none is demanded, or there is no path");
        }
        let sum = report.checksum.is_some_and(|c| c.stated == c.computed);
        note(sum, "header checksum", "it is not right, which the signature does not depend on");
        if legacy {
            report.not_checked.push("countersignature of the old kind: it does not count as a timestamp".to_owned());
        }
    }
}

/// Description, URL and time as the signer states them.
fn read_claims(signed: &SignedData<'_>, report: &mut SignatureReport) -> Checked<()> {
    if let Some((_, set)) = signed.signed.iter().find(|(id, _)| *id == oid::SPC_SP_OPUS_INFO) {
        let info = OpusInfo::read(set.reader())?;
        (report.description, report.url) = (info.description, info.url);
    }
    if let Some((_, set)) = signed.signed.iter().find(|(id, _)| *id == oid::SIGNING_TIME) {
        report.claimed_time = Some(set.reader().time("the signing time")?);
    }
    Ok(())
}

/// Whether a fault of one signature condemns the file: it is damaged or forged, not merely of somebody unknown.
fn is_fatal(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Malformed { .. }
            | Fault::Unsupported { .. }
            | Fault::DigestMismatch { .. }
            | Fault::PageHashMismatch { .. }
            | Fault::AttributeMismatch { .. }
            | Fault::BadSignature { .. }
            | Fault::SignerMissing { .. }
            | Fault::DeniedFile { .. }
            | Fault::BadTimestamp { .. }
    )
}

fn unreadable(error: std::io::Error) -> Fault {
    Fault::malformed(Place::Headers, 0u64, format!("a file that can be read to its end ({error})"))
}

/// Who signed, for callers that want nothing else.
impl VerifyReport {
    /// The signer of the accepted signature.
    pub fn publisher(&self) -> Option<&Identity> {
        self.signer()?.signer.as_ref()
    }
}
