//! The part of the PDB's types that decides whether data can be shared between old and new code.

use crate::entity::UdtId;
use serde::Serialize;

/// Kind of a user-defined type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UdtKind {
    /// `struct` or `class`.
    Struct,
    /// `union`.
    Union,
    /// `enum`; members are the enumerators, offsets their values.
    Enum,
}

/// A data member, base class, virtual function or enumerator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Member name; base classes are named `: Base`, virtual methods that introduce a slot `vtable+offset name`, other
    /// virtual methods `virtual name`.
    pub name: String,
    /// Byte offset in the type, or the value of an enumerator; -1 for a virtual method whose slot is not told.
    pub offset: i64,
    /// Type as text.
    pub type_name: String,
    /// First bit and number of bits of a bit field.
    pub bits: Option<(u8, u8)>,
    /// The structure that is contained by value (array elements included).
    pub by_value: Option<UdtId>,
    /// The structure that is pointed to.
    pub by_pointer: Option<UdtId>,
}

/// A structure, union or enumeration with its layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Udt {
    /// Name; for types without one, a name made from the kind and the first member.
    pub name: String,
    /// Unique (decorated) name where the PDB has one.
    pub unique_name: Option<String>,
    /// Kind.
    pub kind: UdtKind,
    /// Bytes.
    pub size: u64,
    /// Members in declaration order.
    pub members: Vec<Member>,
}

/// All complete user-defined types, sorted by name and then by layout; equal entries appear once.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Types {
    /// The types.
    pub udts: Vec<Udt>,
    /// Types that a parameter, local variable or return value of some function points to, sorted; `None` if that is not
    /// known. Objects of such a type can live on the heap where nothing else shows them.
    pub pointed: Option<Vec<UdtId>>,
}

impl Types {
    /// The type with this index.
    pub fn udt(&self, id: UdtId) -> &Udt {
        &self.udts[id.index()]
    }
    /// All types with this name (more than one where compilands disagree).
    pub fn by_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (UdtId, &'a Udt)> {
        let start = self.udts.partition_point(|u| u.name.as_str() < name);
        self.udts[start..]
            .iter()
            .enumerate()
            .take_while(move |(_, u)| u.name == name)
            .map(move |(i, u)| (UdtId::from(start + i), u))
    }
}
