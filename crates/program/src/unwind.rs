//! Unwind information of x64 images (RUNTIME_FUNCTION, UNWIND_INFO) and the handler data behind it.

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
