//! What Authenticode signs: SpcIndirectDataContent (the digest of the file, page hashes) and SpcSpOpusInfo (description
//! and URL).

use crate::asn1::{Reader, Tlv, algorithm, element, octets, oid as write_oid, sequence, tag};
use crate::cert::bmp_text;
use crate::digest::DigestAlgorithm;
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use crate::pubkey::digest_of;

/// classId of the serialised object that holds page hashes.
const PAGE_HASHES_CLASS: [u8; 16] =
    [0xa6, 0xb5, 0x86, 0xd5, 0xb4, 0xa1, 0x24, 0x66, 0xae, 0x05, 0xa2, 0x17, 0xda, 0x8e, 0x60, 0xd6];

/// What a signature says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndirectData<'a> {
    pub(crate) algorithm: DigestAlgorithm,
    pub(crate) digest: &'a [u8],
    /// Page hash table of version 2 (SHA-256).
    pub(crate) pages: Option<&'a [u8]>,
}

impl<'a> IndirectData<'a> {
    /// Reads the content of the SignedData.
    pub(crate) fn read(content: &Tlv<'a>) -> Checked<IndirectData<'a>> {
        let mut outer = content.reader();
        let mut data = outer.sequence("the kind of data")?;
        let kind = data.oid("the kind of data")?;
        if kind != oid::SPC_PE_IMAGE_DATA {
            return Err(Fault::unsupported(Place::IndirectData, format!("data of kind {kind}, not of a PE image")));
        }
        let mut image = data.sequence("SpcPeImageData")?;
        data.end("the data")?;
        image.optional(tag::BIT_STRING)?;
        let link = image.optional(tag::context(0))?;
        image.end("SpcPeImageData")?;
        let mut info = outer.sequence("the digest of the file")?;
        outer.end("SpcIndirectDataContent")?;
        let algorithm = info.plain_algorithm("the digest algorithm")?;
        let digest = info.take(tag::OCTET_STRING, "the digest")?;
        info.end("the digest of the file")?;
        let algorithm = digest_of(algorithm, Place::IndirectData, "the digest of the file")?;
        if digest.content.len() != algorithm.size() {
            return Err(digest.fault(format!("a digest of {} bytes", algorithm.size())));
        }
        let pages = match link {
            Some(link) => read_link(&link)?,
            None => None,
        };
        Ok(IndirectData { algorithm, digest: digest.content, pages })
    }

    /// The octets of SpcIndirectDataContent.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let link = match self.pages {
            // An empty file name; older tools write "<<<Obsolete>>>" there.
            None => element(tag::context(2), &element(tag::context_primitive(0), &[])),
            Some(table) => {
                let attribute = sequence(&[&write_oid(oid::SPC_PAGE_HASHES_V2), &element(tag::SET, &octets(table))]);
                let object = [octets(&PAGE_HASHES_CLASS), octets(&element(tag::SET, &attribute))].concat();
                element(tag::context(1), &object)
            }
        };
        let image = sequence(&[&element(tag::BIT_STRING, &[0]), &element(tag::context(0), &link)]);
        let data = sequence(&[&write_oid(oid::SPC_PE_IMAGE_DATA), &image]);
        let digest = sequence(&[&algorithm(self.algorithm.oid(), true), &octets(self.digest)]);
        sequence(&[&data, &digest])
    }
}

/// SpcLink: a file name that says nothing, or the page hashes.
fn read_link<'a>(link: &Tlv<'a>) -> Checked<Option<&'a [u8]>> {
    let mut outer = link.reader();
    let choice = outer.any("SpcLink")?;
    outer.end("SpcLink")?;
    if choice.tag == tag::context(2) {
        let mut name = choice.reader();
        let text = name.any("a file name")?;
        name.end("the file name")?;
        let historic = bmp_text(text.content).is_some_and(|t| t.is_empty() || t == "<<<Obsolete>>>");
        if text.tag != tag::context_primitive(0) || !historic {
            return Err(Fault::unsupported(Place::IndirectData, "a file name that is not empty"));
        }
        return Ok(None);
    }
    if choice.tag != tag::context(1) {
        return Err(choice.fault("a file name or a serialised object"));
    }
    let mut object = choice.reader();
    let class = object.take(tag::OCTET_STRING, "a class identifier")?;
    let data = object.take(tag::OCTET_STRING, "serialised data")?;
    object.end("the serialised object")?;
    if class.content != PAGE_HASHES_CLASS {
        return Err(Fault::unsupported(Place::IndirectData, "a serialised object other than page hashes"));
    }
    let mut set = data.reader().take(tag::SET, "a set of page hashes")?.reader();
    let mut attribute = set.sequence("page hashes")?;
    set.end("the set of page hashes")?;
    let version = attribute.oid("the version of the page hashes")?;
    let mut values = attribute.take(tag::SET, "the page hash table")?.reader();
    attribute.end("page hashes")?;
    let table = values.take(tag::OCTET_STRING, "the page hash table")?;
    values.end("the page hash table")?;
    match version {
        oid::SPC_PAGE_HASHES_V2 => Ok(Some(table.content)),
        oid::SPC_PAGE_HASHES_V1 => {
            Err(Fault::WeakAlgorithm { what: "the page hash table".to_owned(), algorithm: "SHA-1".to_owned() })
        }
        other => Err(Fault::unsupported(Place::PageHashes, format!("page hashes of kind {other}"))),
    }
}

/// SpcSpOpusInfo: what the signer says about the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OpusInfo {
    pub(crate) description: Option<String>,
    pub(crate) url: Option<String>,
}

impl OpusInfo {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        if let Some(text) = &self.description {
            let bmp: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
            content.extend(element(tag::context(0), &element(tag::context_primitive(0), &bmp)));
        }
        if let Some(url) = &self.url {
            content.extend(element(tag::context(1), &element(tag::context_primitive(0), url.as_bytes())));
        }
        element(tag::SEQUENCE, &content)
    }

    pub(crate) fn read(mut value: Reader<'_>) -> Checked<OpusInfo> {
        let mut inner = value.sequence("SpcSpOpusInfo")?;
        value.end("SpcSpOpusInfo")?;
        let mut found = OpusInfo::default();
        if let Some(explicit) = inner.optional(tag::context(0))? {
            let text = explicit.reader().any("a program name")?;
            found.description = match text.tag {
                0x80 => Some(bmp_text(text.content).ok_or_else(|| text.fault("UTF-16 text"))?),
                0x81 => Some(ascii(&text)?),
                _ => return Err(text.fault("a program name")),
            };
        }
        if let Some(explicit) = inner.optional(tag::context(1))? {
            let link = explicit.reader().any("a link")?;
            // A file name or a moniker may stand here as well; it is signed, and of no interest.
            if link.tag == 0x80 {
                found.url = Some(ascii(&link)?);
            }
        }
        // Some signers add a third field, undocumented.
        Ok(found)
    }
}

fn ascii(text: &Tlv<'_>) -> Checked<String> {
    if text.content.is_ascii() {
        Ok(String::from_utf8_lossy(text.content).into_owned())
    } else {
        Err(text.fault("ASCII text"))
    }
}

/// SpcStatementType: "individual", as nearly all tools write it.
pub(crate) fn statement_type() -> Vec<u8> {
    sequence(&[&write_oid(oid::SPC_INDIVIDUAL)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indirect_data_reads_back() {
        for pages in [None, Some(&[7u8; 72][..])] {
            let data = IndirectData { algorithm: DigestAlgorithm::Sha384, digest: &[1; 48], pages };
            let octets = data.encode();
            let content = Reader::new(&octets, Place::IndirectData).any("x").unwrap();
            assert_eq!(IndirectData::read(&content).unwrap(), data);
        }
    }

    #[test]
    fn opus_info_reads_back() {
        for info in [
            OpusInfo::default(),
            OpusInfo { description: Some("Dëmo 😀".to_owned()), url: Some("https://example.test/".to_owned()) },
        ] {
            let octets = info.encode();
            assert_eq!(OpusInfo::read(Reader::new(&octets, Place::SignedData)).unwrap(), info);
        }
        let odd = [0x30, 5, 0xa0, 3, 0x80, 1, 0x41];
        assert_eq!(OpusInfo::read(Reader::new(&odd, Place::SignedData)).unwrap_err().reason(), "malformed");
    }

    #[test]
    fn no_page_hashes_is_the_short_form() {
        let octets = IndirectData { algorithm: DigestAlgorithm::Sha256, digest: &[0; 32], pages: None }.encode();
        assert!(octets.windows(9).any(|w| w == [0x03, 0x01, 0x00, 0xa0, 0x04, 0xa2, 0x02, 0x80, 0x00]));
    }
}
