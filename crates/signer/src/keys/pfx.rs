//! Keys from PKCS#12 (PFX).
