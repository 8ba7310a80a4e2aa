//! Keys in tokens and security modules, through a PKCS#11 library (feature `pkcs11`). The key never leaves the token;
//! what it signs is checked like every other signature before it is used.

use super::DigestSigner;
use crate::asn1::{algorithm, octets, sequence, unsigned};
use crate::cert::Certificate;
use crate::digest::DigestAlgorithm;
use crate::error::SignError;
use crate::pubkey::{PublicKey, Scheme};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use std::collections::BTreeMap;

/// A key in a token, named by a URI of RFC 7512.
pub struct TokenKey {
    session: Session,
    key: ObjectHandle,
    scheme: Scheme,
    certificates: Vec<Certificate>,
    /// Unloads the library when everything else is gone.
    _library: Pkcs11,
}

/// What a `pkcs11:` URI says, of what is understood: `token`, `object`, `id`, `serial`, and `module-path`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Uri {
    fields: BTreeMap<String, Vec<u8>>,
}

impl Uri {
    fn parse(uri: &str) -> Result<Uri, SignError> {
        let wrong = |what: &str| SignError::Key(format!("{uri}: {what}"));
        let rest = uri.strip_prefix("pkcs11:").ok_or_else(|| wrong("a URI that begins with pkcs11: is needed"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut fields = BTreeMap::new();
        for part in path.split(';').chain(query.split('&')).filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong("name=value is needed"))?;
            // A field that is passed over could have told two keys apart.
            if !["token", "object", "id", "serial", "type", "module-path"].contains(&name) {
                return Err(wrong(&format!("{name} is not understood")));
            }
            let value = percent_decode(value).ok_or_else(|| wrong("a percent sign needs two hexadecimal digits"))?;
            if fields.insert(name.to_owned(), value).is_some() {
                return Err(wrong(&format!("{name} is given twice")));
            }
        }
        if fields.get("type").is_some_and(|t| t != b"private") {
            return Err(wrong("the type must be private"));
        }
        Ok(Uri { fields })
    }

    fn text(&self, name: &str) -> Option<String> {
        self.fields.get(name).map(|v| String::from_utf8_lossy(v).into_owned())
    }
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            out.push((high << 4 | low) as u8);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

fn failed(what: &str) -> impl Fn(Error) -> SignError {
    move |error| SignError::Device(format!("{what}: {error}"))
}

impl TokenKey {
    /// Opens a key. `certificates` are those of the key and its issuers; when there are none, the certificates of the
    /// token are taken. The URI must lead to one key: `pkcs11:token=T;object=O?module-path=/path/lib.so`.
    ///
    /// # Errors
    /// [`SignError::Key`] for a URI or a key that cannot be used, [`SignError::Password`] for a wrong PIN,
    /// [`SignError::Device`] when the library fails, [`SignError::KeyMismatch`] when no certificate fits.
    pub fn open(uri: &str, pin: &str, mut certificates: Vec<Certificate>) -> Result<TokenKey, SignError> {
        let uri = Uri::parse(uri)?;
        let module = uri.text("module-path");
        let module = module.ok_or_else(|| SignError::Key("the URI names no module-path".to_owned()))?;
        let library = Pkcs11::new(&module).map_err(failed(&module))?;
        match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // One process may open several keys.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed(&module)(error)),
        }
        let slot = find_slot(&library, &uri)?;
        let session = library.open_ro_session(slot).map_err(failed("cannot open a session"))?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.to_owned().into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid, _)) => {
                return Err(SignError::Password);
            }
            Err(error) => return Err(failed("cannot log in")(error)),
        }
        let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
        template.extend(uri.fields.get("object").map(|label| Attribute::Label(label.clone())));
        template.extend(uri.fields.get("id").map(|id| Attribute::Id(id.clone())));
        let keys = session.find_objects(&template).map_err(failed("cannot look for the key"))?;
        let [key] = keys[..] else {
            return Err(SignError::Key(format!("the URI leads to {} private keys, not to one", keys.len())));
        };
        if certificates.is_empty() {
            certificates = read_certificates(&session)?;
        }
        if certificates.is_empty() {
            return Err(SignError::Key("there is no certificate".to_owned()));
        }
        let mut token = TokenKey { session, key, scheme: Scheme::Rsa, certificates, _library: library };
        token.choose_certificate()?;
        Ok(token)
    }

    /// Finds the certificate of the key by a signature, and puts it first.
    fn choose_certificate(&mut self) -> Result<(), SignError> {
        let probe = b"hotgraft";
        let digest = DigestAlgorithm::Sha256.digest(probe);
        let mut last = None;
        for index in 0..self.certificates.len() {
            let certificate = &self.certificates[index];
            let Ok(public) = PublicKey::from_spki(certificate.key(), &certificate.subject_text()) else { continue };
            self.scheme = public.scheme();
            // A mechanism that does not fit the key fails: this is then not its certificate.
            match self.sign(DigestAlgorithm::Sha256, probe) {
                Ok(signature) if public.verifies(DigestAlgorithm::Sha256, &digest, &signature) => {
                    self.certificates[..=index].rotate_right(1);
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| SignError::KeyMismatch { subject: self.certificates[0].subject_text() }))
    }
}

fn find_slot(library: &Pkcs11, uri: &Uri) -> Result<cryptoki::slot::Slot, SignError> {
    let mut found = Vec::new();
    for slot in library.get_slots_with_initialized_token().map_err(failed("cannot list tokens"))? {
        let info = library.get_token_info(slot).map_err(failed("cannot read a token"))?;
        let fits = |name: &str, value: &str| uri.text(name).is_none_or(|wanted| wanted == value.trim_end());
        if fits("token", info.label()) && fits("serial", info.serial_number()) {
            found.push(slot);
        }
    }
    match found[..] {
        [slot] => Ok(slot),
        _ => Err(SignError::Key(format!("the URI leads to {} tokens, not to one", found.len()))),
    }
}

fn read_certificates(session: &Session) -> Result<Vec<Certificate>, SignError> {
    let objects = session
        .find_objects(&[Attribute::Class(ObjectClass::CERTIFICATE)])
        .map_err(failed("cannot look for certificates"))?;
    let mut certificates = Vec::new();
    for object in objects {
        let attributes =
            session.get_attributes(object, &[AttributeType::Value]).map_err(failed("cannot read a certificate"))?;
        for attribute in attributes {
            if let Attribute::Value(der) = attribute {
                certificates.push(Certificate::from_der(&der)?);
            }
        }
    }
    Ok(certificates)
}

impl DigestSigner for TokenKey {
    fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    fn sign(&self, digest: DigestAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let hash = digest.digest(message);
        let sign = |mechanism: &Mechanism<'_>, data: &[u8]| {
            self.session.sign(mechanism, self.key, data).map_err(failed("the token does not sign"))
        };
        match self.scheme {
            Scheme::Rsa => {
                // CKM_RSA_PKCS pads what it is given: the digest has to come with its algorithm.
                let info = sequence(&[&algorithm(digest.oid(), true), &octets(&hash)]);
                sign(&Mechanism::RsaPkcs, &info)
            }
            Scheme::EcdsaP256 | Scheme::EcdsaP384 => {
                // CKM_ECDSA takes at most as many bits as the curve has, and gives r and s one after the other.
                let size = if self.scheme == Scheme::EcdsaP256 { 32 } else { 48 };
                let raw = sign(&Mechanism::Ecdsa, &hash[..hash.len().min(size)])?;
                if raw.len() != 2 * size {
                    return Err(SignError::Device(format!("the token gives a signature of {} bytes", raw.len())));
                }
                let (r, s) = raw.split_at(size);
                Ok(sequence(&[&unsigned(r), &unsigned(s)]))
            }
        }
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let uri = Uri::parse("pkcs11:token=my%20token;object=leaf;id=%01%ff?module-path=/usr/lib/x.so").unwrap();
        assert_eq!(uri.text("token").as_deref(), Some("my token"));
        assert_eq!(uri.fields["id"], [1, 0xff]);
        assert_eq!(uri.text("module-path").as_deref(), Some("/usr/lib/x.so"));
        for bad in [
            "",
            "token=x",
            "pkcs11:token",
            "pkcs11:slot-id=3",
            "pkcs11:id=%0",
            "pkcs11:id=%zz",
            "pkcs11:token=a;token=b",
            "pkcs11:type=cert",
        ] {
            assert!(Uri::parse(bad).is_err(), "{bad}");
        }
    }
}
