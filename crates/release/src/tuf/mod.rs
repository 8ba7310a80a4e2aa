//! Trust in a catalog, after The Update Framework: a root that says which keys count, and three roles below it. What is
//! written here can be read by every client of the framework, and is, in the tests.
//!
//! | role | says | kept |
//! |---|---|---|
//! | root | which keys each role has, and how many must sign | offline; the only one that names keys |
//! | targets | the files, with length and hash | with who releases |
//! | snapshot | which version of `targets` belongs to this state | with the publishing machine |
//! | timestamp | which `snapshot` is the newest; short-lived, so that an old state cannot be served for long | with the publishing machine |

mod client;
mod key;
mod metadata;

pub(crate) use client::target_file;
pub use client::{Client, Limits, Remembered, Trusted, Update};
pub use key::Key;
pub use metadata::{
    Envelope, Expiry, Hashes, Meta, Role, RoleKeys, Root, Signature, Snapshot, Target, Targets, Timestamp,
};
pub(crate) use metadata::{SPEC_VERSION, sign};
