//! Authenticode: sign PE files, verify them, tell who signed.
