//! The rules: what each kind of difference means for a process that runs.
//!
//! [`table`] is the one list of keys, with the reason and the advice that users read. The modules beside it hold the
//! rules themselves, a module per family; each takes the [`Context`](crate::context::Context) and the
//! [`Closure`](crate::closure::Closure) and returns findings.

pub mod folds;
pub mod functions;
pub mod hooks;
pub mod identity;
pub mod image;
pub mod objects;
pub mod runtime;
pub mod table;
pub mod types;

use crate::verdict::Outcome;
use serde::Serialize;

/// Under which heading users see a refusal or condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The interface to other modules.
    Exports,
    /// Layouts, tables and calling contracts.
    DataStructures,
    /// Imports.
    Dependencies,
    /// Variables, initialisers, resources.
    GlobalState,
    /// Code that threads stay in.
    PersistentFrames,
    /// Code that cannot be understood or moved.
    AssemblyCode,
    /// The inputs themselves.
    Identity,
    /// The place where a redirect would be written.
    EntrySite,
}

impl Head {
    /// The heading for people.
    pub fn title(self) -> &'static str {
        match self {
            Head::Exports => "exports",
            Head::DataStructures => "data structures",
            Head::Dependencies => "dependencies",
            Head::GlobalState => "global state",
            Head::PersistentFrames => "persistent frames",
            Head::AssemblyCode => "assembly code",
            Head::Identity => "identity",
            Head::EntrySite => "entry site",
        }
    }
}

/// One rule, as users know it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rule {
    /// Stable key, `family.thing.change`.
    pub key: &'static str,
    /// What it can say.
    pub outcomes: &'static [Outcome],
    /// Heading of its refusals and conditions.
    pub head: Option<Head>,
    /// One sentence: why.
    pub why: &'static str,
    /// One sentence: what to do. Empty if nothing is to be done.
    pub todo: &'static str,
    /// Kinds of change it covers, by the numbers of the project's taxonomy.
    pub rows: &'static [&'static str],
}

/// The rule with this key.
pub fn explain(key: &str) -> Option<&'static Rule> {
    table::RULES.binary_search_by(|rule| rule.key.cmp(key)).ok().map(|i| &table::RULES[i])
}

/// All rules, sorted by key.
pub fn all() -> &'static [Rule] {
    table::RULES
}
