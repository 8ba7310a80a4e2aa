//! The reader: elements in order, each with the octets it was read from.

use super::tag;
use crate::fault::{Checked, Fault, Place};
use crate::oid;
use crate::time::UnixTime;
use const_oid::ObjectIdentifier;

/// One element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tlv<'a> {
    /// Identifier octet (class, constructed bit, number below 31).
    pub(crate) tag: u8,
    /// Content octets.
    pub(crate) content: &'a [u8],
    /// Identifier, length and content octets.
    pub(crate) raw: &'a [u8],
    /// Offset of the identifier octet in the outermost octets, bytes.
    pub(crate) at: usize,
    place: Place,
}

/// Reads elements from octets, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    place: Place,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], place: Place) -> Reader<'a> {
        Reader { bytes, at: 0, place }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Octets not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn fault(&self, expected: impl Into<String>) -> Fault {
        Fault::malformed(self.place, self.at, expected)
    }

    fn read_tlv(&mut self) -> Checked<Tlv<'a>> {
        let (content_at, length) = header(self.bytes).map_err(|expected| self.fault(expected))?;
        let end = content_at + length;
        let raw = &self.bytes[..end];
        let tlv = Tlv { tag: raw[0], content: &raw[content_at..], raw, at: self.at, place: self.place };
        self.bytes = &self.bytes[end..];
        self.at += end;
        Ok(tlv)
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self, what: &str) -> Checked<Tlv<'a>> {
        if self.bytes.is_empty() {
            return Err(self.fault(what));
        }
        self.read_tlv()
    }

    /// The next element, which must have this tag.
    pub(crate) fn take(&mut self, wanted: u8, what: &str) -> Checked<Tlv<'a>> {
        if self.bytes.first() != Some(&wanted) {
            return Err(self.fault(what));
        }
        self.read_tlv()
    }

    /// The next element if it has this tag.
    pub(crate) fn optional(&mut self, wanted: u8) -> Checked<Option<Tlv<'a>>> {
        if self.bytes.first() == Some(&wanted) { self.read_tlv().map(Some) } else { Ok(None) }
    }

    pub(crate) fn sequence(&mut self, what: &str) -> Checked<Reader<'a>> {
        Ok(self.take(tag::SEQUENCE, what)?.reader())
    }

    pub(crate) fn oid(&mut self, what: &str) -> Checked<ObjectIdentifier> {
        self.take(tag::OID, what)?.as_oid()
    }

    /// An AlgorithmIdentifier: its object identifier and what follows it.
    pub(crate) fn algorithm(&mut self, what: &str) -> Checked<(ObjectIdentifier, &'a [u8])> {
        let mut inner = self.sequence(what)?;
        let oid = inner.oid(what)?;
        let parameters = inner.rest();
        if !inner.is_empty() {
            inner.any(what)?;
            inner.end(what)?;
        }
        Ok((oid, parameters))
    }

    /// An AlgorithmIdentifier of a digest or a signature, whose parameters are absent or NULL. Those of RSA-PSS and of EC
    /// keys are passed over: the first is refused by whoever asked, the second says what the key says.
    pub(crate) fn plain_algorithm(&mut self, what: &str) -> Checked<ObjectIdentifier> {
        let at = self.clone();
        let (id, parameters) = self.algorithm(what)?;
        if !matches!(parameters, [] | [tag::NULL, 0]) && ![oid::RSA_PSS, oid::EC_PUBLIC_KEY].contains(&id) {
            return Err(at.fault(format!("{what} without parameters")));
        }
        Ok(id)
    }

    /// A non-negative INTEGER that fits 32 bits.
    pub(crate) fn small_integer(&mut self, what: &str) -> Checked<u32> {
        let tlv = self.take(tag::INTEGER, what)?;
        let bytes = match tlv.content {
            [] => return Err(tlv.fault(what)),
            [0, rest @ ..] => rest,
            [first, ..] if first & 0x80 != 0 => return Err(tlv.fault(what)),
            all => all,
        };
        if bytes.len() > 4 {
            return Err(tlv.fault(what));
        }
        Ok(bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    /// UTCTime or GeneralizedTime.
    pub(crate) fn time(&mut self, what: &str) -> Checked<UnixTime> {
        let tlv = self.any(what)?;
        let utc = match tlv.tag {
            tag::UTC_TIME => true,
            tag::GENERALIZED_TIME => false,
            _ => return Err(tlv.fault(what)),
        };
        UnixTime::from_asn1(tlv.content, utc).ok_or_else(|| tlv.fault(what))
    }

    /// Nothing may follow.
    pub(crate) fn end(&self, what: &str) -> Checked<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.fault(format!("the end of {what}"))) }
    }
}

impl<'a> Tlv<'a> {
    /// Reads the content as elements.
    pub(crate) fn reader(&self) -> Reader<'a> {
        Reader { bytes: self.content, at: self.at + (self.raw.len() - self.content.len()), place: self.place }
    }

    pub(crate) fn fault(&self, expected: impl Into<String>) -> Fault {
        Fault::malformed(self.place, self.at, expected)
    }

    pub(crate) fn as_oid(&self) -> Checked<ObjectIdentifier> {
        ObjectIdentifier::from_bytes(self.content).map_err(|_| self.fault("an object identifier of usual length"))
    }

    /// BIT STRING of whole octets.
    pub(crate) fn as_bits(&self) -> Checked<&'a [u8]> {
        match self.content {
            [0, bits @ ..] => Ok(bits),
            _ => Err(self.fault("a bit string of whole octets")),
        }
    }
}

/// Length of the header and of the content, checked against the octets there are.
fn header(bytes: &[u8]) -> Result<(usize, usize), &'static str> {
    let [identifier, first, rest @ ..] = bytes else { return Err("an element of at least two octets") };
    if identifier & 0x1f == 0x1f {
        return Err("a tag number below 31");
    }
    let (header, length) = match *first {
        0x80 => return Err("a definite length"),
        short @ 0..0x80 => (2, usize::from(short)),
        long => {
            let count = usize::from(long & 0x7f);
            // Four octets address 4 GiB: no certificate table can hold more.
            if count > 4 {
                return Err("a length of at most four octets");
            }
            let octets = rest.get(..count).ok_or("the octets of the length")?;
            let length = octets.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
            // A length that has a shorter form is a second spelling of the same value.
            if length < 0x80 || octets[0] == 0 {
                return Err("a length in its shortest form");
            }
            (2 + count, usize::try_from(length).map_err(|_| "a length that fits the file")?)
        }
    };
    match header.checked_add(length) {
        Some(end) if end <= bytes.len() => Ok((header, length)),
        _ => Err("as many octets as the length says"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_has_two_spellings() {
        for bad in [
            &[0x30u8][..],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 0x01, 0],
            &[0x30, 0x82, 0x00, 0x80],
            &[0x30, 0x85, 1, 0, 0, 0, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x3f, 0x01, 0],
            &[0x30, 0x02, 0],
        ] {
            assert!(Reader::new(bad, Place::SignedData).any("x").is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn offsets_are_those_of_the_outermost_octets() {
        let bytes = [0x30, 0x04, 0x02, 0x02, 0x80, 0x00];
        let mut outer = Reader::new(&bytes, Place::SignedData);
        let mut inner = outer.sequence("s").unwrap();
        let Err(Fault::Malformed { at, .. }) = inner.small_integer("n") else { panic!() };
        assert_eq!(at, 2);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_elements_or_a_fault(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut reader = Reader::new(&bytes, Place::SignedData);
            let mut total = 0;
            while let Ok(tlv) = reader.any("x") {
                total += tlv.raw.len();
                let _ = tlv.as_oid();
                let _ = tlv.reader().small_integer("n");
                let _ = tlv.reader().time("t");
            }
            assert!(total <= bytes.len());
        }
    }
}
