//! What the caller may choose.

/// Options of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Ignore all names of functions, objects and modules, even where a PDB was read: match by structure alone. Names
    /// of imports and exports are part of the image and stay in use.
    pub structure_only: bool,
    /// Functions that only resemble each other are matched at or above this similarity (0 to 1), and only if each is
    /// the other's best candidate. Below it they stay unmatched: removed and added.
    pub similarity_threshold: f32,
}

impl Default for Options {
    fn default() -> Self {
        Options { structure_only: false, similarity_threshold: 0.6 }
    }
}
