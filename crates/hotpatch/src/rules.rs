//! Every rule that a hotpatch image must obey, with a stable name and who demands it.

use serde::Serialize;

/// Who demands a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DemandedBy {
    /// Public headers (winnt.h) or the PE format.
    Header,
    /// The Windows loader, as observed; not documented by its vendor.
    Windows,
    /// hotgraft's own choice, where the others leave something open.
    Us,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Stable dotted name.
    pub name: &'static str,
    /// Who demands it.
    pub demanded_by: DemandedBy,
    /// What it demands, one sentence.
    pub text: &'static str,
}

macro_rules! rules {
    ($($id:ident $by:ident $name:literal $text:literal;)*) => {
        $(
            #[doc = $text]
            pub const $id: Rule = Rule { name: $name, demanded_by: DemandedBy::$by, text: $text };
        )*
        /// All rules, in the order in which they are checked.
        pub const RULES: &[Rule] = &[$($id),*];
    };
}

rules! {
    IMAGE_FORMAT Header "image.format" "The file is a PE32 or PE32+ image whose headers can be read.";
    IMAGE_MACHINE Header "image.machine" "The machine is x86, x64 or ARM64, the ones that hotpatch flags exist for.";
    IMAGE_DLL Us "image.dll" "The image is marked as an executable image and as a DLL.";
    IMAGE_RELOCATABLE Us "image.relocatable" "Base relocations are not stripped, and DYNAMIC_BASE and NX_COMPAT are set.";
    IMAGE_CHECKSUM Us "image.checksum" "The optional header's CheckSum is the checksum of the file.";
    IMAGE_RELOCATIONS Header "image.relocations" "The base relocation blocks can be read and lie inside the image.";
    IMAGE_EXPORTS Us "image.exports" "The image exports nothing: in particular no __PatchMainCallout__ that would run while the patch is applied.";
    CONFIG_PRESENT Header "load_config.present" "The image has a load configuration directory.";
    CONFIG_SIZE Windows "load_config.size" "The data directory's Size equals the structure's own Size field.";
    CONFIG_MINIMUM Windows "load_config.minimum" "The load configuration has at least 0xF4 bytes (0x98 in 32-bit images).";
    CONFIG_INSIDE Windows "load_config.inside" "The load configuration lies inside SizeOfImage.";
    CONFIG_CHPE Windows "load_config.chpe" "CHPEMetadataPointer is 0.";
    CONFIG_OFFSET Header "load_config.hot_patch_table" "HotPatchTableOffset is the RVA, a multiple of 4, of bytes of the file.";
    CONFIG_TARGETS Header "load_config.guard_table" "The guard function table, where present, lies inside the file and is sorted.";
    INFO_READABLE Header "info.readable" "Version is 1 to 4, Size is at least that version's minimum and inside the image.";
    INFO_SPANS Windows "info.size_spans" "Everything that INFO leads to lies inside its Size bytes, as offsets from its first byte.";
    INFO_VERSION Us "info.version" "Version is 3, or 4 if a minimum sequence number is asked for.";
    INFO_SEQUENCE Header "info.sequence" "SequenceNumber is not 0.";
    INFO_BASES Header "info.bases" "At least one base image is listed.";
    INFO_ONE_BASE Us "info.one_base" "Exactly one base image is listed.";
    INFO_EXTRA Us "info.extra" "ExtraPatchSize is 1: the expected first bytes.";
    INFO_FLAGS Header "info.flags" "Flags has no bit but HOTSWAP (2).";
    INFO_ALIGNED Header "info.aligned" "Every structure that INFO leads to starts on a multiple of 4.";
    BASE_FLAGS Header "base.flags" "BASE.Flags has no bits that winnt.h does not define.";
    BASE_MACHINE Windows "base.machine" "A machine bit in BASE.Flags is the machine of the patch image.";
    BASE_MACHINE_SET Us "base.machine_set" "BASE.Flags has the machine bit of the patch image.";
    BASE_HASHES Us "base.hashes" "CodeIntegrityInfo leads to IMAGE_HOT_PATCH_HASHES and CodeIntegritySize is 52.";
    BASE_TABLE Header "base.patch_table" "The base has a patch table with at least one FUNCTION record.";
    CHUNK_RESERVED Header "chunk.reserved" "Reserved bits of a chunk header are 0.";
    CHUNK_KIND Header "chunk.kind" "The type bits of a chunk header are one of the types of winnt.h.";
    CHUNK_OBLIGATORY Windows "chunk.obligatory" "No chunk is marked OBLIGATORY.";
    CHUNK_DIRECTION Windows "chunk.direction" "Forward chunks are of type FUNCTION, and no other type is forward.";
    CHUNK_FUNCTION Us "chunk.function_forward" "FUNCTION chunks are not inverse.";
    CHUNK_EMITTED Us "chunk.emitted" "No chunk is of type REL32, NO_CALL_TARGET or DYNAMIC_VALUE.";
    CHUNK_EMPTY Us "chunk.empty" "No chunk is empty.";
    CHUNK_ORDER Us "chunk.order" "Chunks are sorted by direction and type, records by place and target, none twice.";
    RECORD_PLACE Windows "record.place" "The changed extent lies inside the image that is changed; a replaced function lies at 0x10 or above.";
    RECORD_TARGET Windows "record.target" "The target and a pointer's size behind it lie inside the image it belongs to.";
    RECORD_OVERLAP Windows "record.overlap" "No two records change the same bytes.";
    RECORD_DYNAMIC Header "record.dynamic_value" "The operand of a DYNAMIC_VALUE record is not 0xFFFFFFFF.";
    RECORD_CODE Us "record.code" "A FUNCTION record leads to an executable section of the patch, 16-aligned, behind 6 bytes of padding.";
    RECORD_DATA Us "record.data" "An inverse record changes bytes of a section that the file holds, that are not part of the table itself and not under a base relocation.";
    RECORD_EXPECTED Us "record.expected" "The first extra word of a FUNCTION record holds 2 expected bytes, that of any other record is 0.";
    GRAFT_PRESENT Us "graft.present" "The image has a section .hgraft, read-only and not executable.";
    GRAFT_READABLE Us "graft.readable" ".hgraft can be read: magic, version, digest, offsets, counts.";
    GRAFT_CANONICAL Us "graft.canonical" ".hgraft is written in the one order and encoding that its content has.";
    GRAFT_IDENTITY Us "graft.identity" ".hgraft and the Windows tables name the same base, machine, sequence number and base hash.";
    GRAFT_ROLL_BACK Us "graft.roll_back" "BASE.Flags has CAN_ROLL_BACK exactly if .hgraft gives no reason why the patch cannot be rolled back.";
    GRAFT_FUNCTIONS Us "graft.functions" "The replaced functions of .hgraft are the FUNCTION records, with the same expected bytes.";
    GRAFT_SITES Us "graft.sites" "Each redirect site fits its entry method, has all its expected bytes, and overlaps no other.";
    GRAFT_ADDED Us "graft.added" "Added functions have no site, method or expected bytes, and lie in executable sections of the patch.";
    GRAFT_HOOKS Us "graft.hooks" "Hooks, where there are any, are at least one, each of another point, in the order of the points, and lie in executable sections of the patch.";
    GRAFT_NEAR Us "graft.near" "Near references are fields of the patch that the file holds, do not overlap one another or a base relocation, and lead into the base.";
    GRAFT_GUARDED Us "graft.guarded" "Guarded ranges lie inside the base and cover the entry range of every replaced function.";
    AGAINST_IDENTITY Windows "against.identity" "OriginalTimeDateStamp and OriginalCheckSum are the base file's header fields.";
    AGAINST_FILE Us "against.file" "Hashes, machine, SizeOfImage and PDB identity are the base file's.";
    AGAINST_EXPECTED Windows "against.expected" "The expected first bytes are the base function's.";
    AGAINST_SITES Us "against.sites" "The expected bytes of each site are the base file's and hold no base relocation.";
    AGAINST_GUARDED Us "against.guarded" "The digest of each guarded range is the base file's.";
}
