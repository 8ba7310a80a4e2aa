//! Names for things inside one image, free of addresses.

use serde::Serialize;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in the table that this index belongs to.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl From<usize> for $name {
            fn from(index: usize) -> Self {
                $name(u32::try_from(index).expect("tables are bounded by the 32-bit image size"))
            }
        }
    };
}

index!(
    /// Index into [`Program::functions`](crate::Program::functions).
    FunctionId
);
index!(
    /// Index into [`Program::objects`](crate::Program::objects).
    ObjectId
);
index!(
    /// Index into [`Program::imports`](crate::Program::imports).
    ImportId
);
index!(
    /// Index into [`Program::modules`](crate::Program::modules).
    ModuleId
);
index!(
    /// Index into [`Types::udts`](crate::Types::udts).
    UdtId
);

/// What an address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Entity {
    /// A byte of the function's entry range; addend 0 is the entry itself.
    Function(FunctionId),
    /// A byte of another range (cold part, funclet) of a function; the number is the index into
    /// [`Function::ranges`](crate::Function::ranges), at least 1; addend 0 is the start of that range.
    Fragment(FunctionId, u16),
    /// A byte of a data object; addend 0 is its first byte.
    Object(ObjectId),
    /// A slot of the import address table (delay-load slots included).
    Import(ImportId),
    /// The image as a whole (`__ImageBase`); addend is then an RVA that has been proven to mean the image itself,
    /// such as the address of the DOS header.
    ImageBase,
    /// An address within the image that could not be attributed; the addend is its RVA. It never equals anything
    /// and blocks every patch that depends on it.
    Unknown,
}

/// An entity and an offset in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Target {
    /// What is referred to.
    pub entity: Entity,
    /// Bytes from the start of the entity.
    pub addend: i64,
}
