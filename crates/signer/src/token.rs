//! RFC 3161 timestamp tokens: what they say, and whether they may be believed.

use crate::asn1::{Reader, tag};
use crate::cert::Certificate;
use crate::chain::Wanted;
use crate::cms_read::{Profile, SignedData, Signer};
use crate::digest::{DigestAlgorithm, hex, sha1};
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use crate::policy::TrustPolicy;
use crate::pubkey::digest_of;
use crate::report::TimestampReport;
use crate::time::UnixTime;

/// The content of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenInfo<'a> {
    pub(crate) algorithm: DigestAlgorithm,
    pub(crate) imprint: &'a [u8],
    pub(crate) time: UnixTime,
    /// Content octets of the nonce.
    pub(crate) nonce: Option<&'a [u8]>,
}

impl<'a> TokenInfo<'a> {
    /// Reads the TSTInfo within a token.
    pub(crate) fn read(token: &SignedData<'a>) -> Checked<TokenInfo<'a>> {
        let mut outer = token.content.reader();
        let mut info = outer.sequence("TSTInfo")?;
        outer.end("TSTInfo")?;
        let version = info.small_integer("the version")?;
        if version != 1 {
            return Err(Fault::unsupported(Place::Timestamp, format!("TSTInfo of version {version}")));
        }
        info.oid("the policy")?;
        let mut imprint = info.sequence("the message imprint")?;
        let algorithm = imprint.plain_algorithm("the imprint's digest algorithm")?;
        let hash = imprint.take(tag::OCTET_STRING, "the imprint")?;
        imprint.end("the message imprint")?;
        info.take(tag::INTEGER, "the serial number")?;
        if info.rest().first() != Some(&tag::GENERALIZED_TIME) {
            return Err(info.fault("the time"));
        }
        let time = info.time("the time")?;
        info.optional(tag::SEQUENCE)?;
        info.optional(tag::BOOLEAN)?;
        let nonce = info.optional(tag::INTEGER)?.map(|n| n.content);
        info.optional(tag::context(0))?;
        if info.optional(tag::context(1))?.is_some() {
            return Err(Fault::unsupported(Place::Timestamp, "extensions of TSTInfo"));
        }
        info.end("TSTInfo")?;
        let algorithm = digest_of(algorithm, Place::Timestamp, "the timestamp's imprint")?;
        Ok(TokenInfo { algorithm, imprint: hash.content, time, nonce })
    }
}

/// Checks everything about a token but the path of the authority.
fn check<'a>(token: &SignedData<'a>, stamped: &[u8]) -> Checked<(TokenInfo<'a>, Signer)> {
    let info = TokenInfo::read(token)?;
    let computed = info.algorithm.digest(stamped);
    if info.imprint != computed {
        return Err(Fault::DigestMismatch { stated: hex(info.imprint), computed: hex(&computed) });
    }
    let signer = token.check()?;
    check_certificate_attribute(token, &signer.certificate)?;
    // RFC 3161 2.3: timeStamping alone, and critical.
    match &signer.certificate.extensions().ekus {
        Some((ekus, true)) if ekus == &[oid::TIME_STAMPING] => Ok((info, signer)),
        _ => Err(Fault::WrongPurpose {
            subject: signer.certificate.subject_text(),
            purpose: "timestamps alone (extended key usage, critical)".to_owned(),
        }),
    }
}

/// RFC 3161 2.4.1: the signed attributes name the certificate, so that it cannot be exchanged.
fn check_certificate_attribute(token: &SignedData<'_>, certificate: &Certificate) -> Checked<()> {
    let differs = |detail: &str| Fault::AttributeMismatch { place: Place::Timestamp, detail: detail.to_owned() };
    let (value, newer) = match token.single(oid::SIGNING_CERTIFICATE_V2)? {
        Some(value) => (value, true),
        None => match token.single(oid::SIGNING_CERTIFICATE)? {
            Some(value) => (value, false),
            None => return Err(differs("it does not name the certificate of the authority")),
        },
    };
    let mut first = value.reader().sequence("certificate identifiers")?.sequence("a certificate identifier")?;
    let algorithm = match first.optional(tag::SEQUENCE)? {
        Some(algorithm) if newer => {
            digest_of(algorithm.reader().oid("a digest algorithm")?, Place::Timestamp, "a certificate identifier")?
        }
        Some(other) => return Err(other.fault("a certificate hash")),
        None => DigestAlgorithm::Sha256,
    };
    let stated = first.take(tag::OCTET_STRING, "a certificate hash")?.content;
    let computed = if newer { algorithm.digest(certificate.der()) } else { sha1(certificate.der()) };
    if stated == computed { Ok(()) } else { Err(differs("it names another certificate of the authority")) }
}

/// Judges the token over `stamped` (the signature value of the signer).
///
/// A token that is broken or about something else is an error. One whose authority leads to no root of the policy is
/// merely not believed: the report says so, and the time does not count.
pub(crate) fn judge(der: &[u8], stamped: &[u8], policy: &TrustPolicy, now: UnixTime) -> Checked<TimestampReport> {
    let bad = |cause: Fault| Fault::BadTimestamp { cause: Box::new(cause) };
    let token = SignedData::read(der, Profile::Timestamp).map_err(bad)?;
    let (info, signer) = check(&token, stamped).map_err(bad)?;
    let wanted = Wanted {
        pool: &token.certificates,
        roots: policy.timestamp_roots(),
        policy,
        ekus: &[oid::TIME_STAMPING],
        at: info.time,
        at_is_proven: true,
        now,
    };
    let mut report =
        TimestampReport { time: info.time, signer: signer.certificate.identity(), chain: Vec::new(), fault: None };
    match wanted.find(&signer.certificate) {
        Ok(path) => report.chain = path.certificates.iter().map(Certificate::identity).collect(),
        Err(fault @ Fault::Untrusted { .. }) => report.fault = Some(fault),
        Err(other) => return Err(bad(other)),
    }
    Ok(report)
}

/// Checks a token that was just received: that it stamps `stamped`, with the nonce that was sent.
pub(crate) fn check_fresh(der: &[u8], stamped: &[u8], nonce: &[u8]) -> Checked<()> {
    let token = SignedData::read(der, Profile::Timestamp)?;
    let (info, _) = check(&token, stamped)?;
    let mut reader = Reader::new(nonce, Place::Timestamp);
    if info.nonce != Some(reader.take(tag::INTEGER, "a nonce")?.content) {
        let detail = "the nonce is not the one that was sent".to_owned();
        return Err(Fault::AttributeMismatch { place: Place::Timestamp, detail });
    }
    Ok(())
}
