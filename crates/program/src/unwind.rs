//! Unwind information of x64 images (RUNTIME_FUNCTION, UNWIND_INFO) and the handler data behind it.

mod cursor;
mod cxx;
mod lsda;
mod x64;

use crate::code::RawReference;
use crate::error::Result;
use crate::function::Problem;
use crate::image::Image;
use crate::reference::Reference;
use serde::Serialize;

/// What stands behind UNWIND_INFO for the exception handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlerData {
    /// No handler, or a handler without data.
    None,
    /// Scope table of `__C_specific_handler`.
    ScopeTable,
    /// Language-specific data area of `__gxx_personality_seh0` and relatives.
    ItaniumLsda,
    /// FuncInfo of `__CxxFrameHandler3`.
    CxxFrameHandler3,
    /// Compressed FuncInfo of `__CxxFrameHandler4`.
    CxxFrameHandler4,
    /// Data of `__GSHandlerCheck` and its combinations.
    GsCheck,
    /// A handler that is not known: its data cannot be re-emitted.
    Unknown,
}

/// One RUNTIME_FUNCTION and its UNWIND_INFO.
#[derive(Clone, Debug, Serialize)]
pub struct UnwindInfo {
    /// RVA of the RUNTIME_FUNCTION entry in .pdata.
    pub entry: u32,
    /// First byte covered.
    pub begin: u32,
    /// First byte behind.
    pub end: u32,
    /// RVA of UNWIND_INFO.
    pub info: u32,
    /// Bytes of UNWIND_INFO with handler RVA and handler data (or the chained entry), starting at `info`.
    pub size: u32,
    /// True if the data ends with a chained RUNTIME_FUNCTION.
    pub chained: bool,
    /// What stands behind the codes.
    pub handler_data: HandlerData,
    /// Every address held between `info` and `info + size` (handler, scope entries, landing pads as call-site
    /// offsets are not addresses; type table entries are), sorted by site. Data reached from there that belongs to this function
    /// alone (FuncInfo and its maps) is made of ordinary objects of kind [`Unwind`](crate::ObjectKind::Unwind).
    pub references: Vec<Reference>,
}

/// What a place in code that unwind data names is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeTargetKind {
    /// Landing pad or `__except` block: a label inside the function.
    LandingPad,
    /// Exception filter: a funclet.
    Filter,
    /// `__finally`, destructor or other clean-up action: a funclet.
    Cleanup,
    /// C++ `catch` block: a funclet.
    Catch,
}

/// A place in code that control reaches through unwind data alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CodeTarget {
    /// Where.
    pub rva: u32,
    /// First byte of the RUNTIME_FUNCTION whose handler data names it.
    pub function: u32,
    /// What it is.
    pub kind: CodeTargetKind,
}

/// All unwind data of an image, before addresses are attributed.
#[derive(Clone, Debug, Default)]
pub struct UnwindTable {
    /// Sorted by `begin`; `references` of each is empty: the loader fills it from [`UnwindTable::references`].
    pub entries: Vec<UnwindInfo>,
    /// Extents (RVA, bytes) of UNWIND_INFO with handler data, and of the maps reached from there; sorted, disjoint.
    pub objects: Vec<(u32, u32)>,
    /// Every address in .pdata and in `objects`, sorted by site, one per site.
    pub references: Vec<RawReference>,
    /// Sorted, without repetition.
    pub code_targets: Vec<CodeTarget>,
    /// What could not be understood.
    pub problems: Vec<Problem>,
}

/// Reads the exception directory of an x64 image.
///
/// `handler_name` gives the name of the function at an RVA, seen through import thunks; without a name the handler's
/// data is [`HandlerData::Unknown`].
///
/// # Errors
/// [`Error::Malformed`](crate::Error::Malformed) if the directory does not lie inside of the image. Damage behind
/// single entries is reported in [`UnwindTable::problems`] instead.
pub fn read(image: &Image, handler_name: &dyn Fn(u32) -> Option<String>) -> Result<UnwindTable> {
    x64::read(image, handler_name)
}

#[cfg(test)]
pub(crate) mod tests;
