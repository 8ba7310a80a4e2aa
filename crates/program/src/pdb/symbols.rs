//! Symbol records of the compilands and of the global stream.

use super::cursor::{Cursor, Damage, Records};
use super::lines::{self, ModuleLines};
use super::source::Strings;
use super::types::{TypeTable, UdtIndex};
use super::{ModuleStream, Pdb};
use crate::entity::{ModuleId, UdtId};
use crate::function::InlineSite;
use crate::program::Module;
use crate::reference::Form;

const STREAM: &str = "symbols";

/// A procedure or thunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcedureSymbol {
    /// Entry.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
    /// Undecorated name.
    pub name: String,
    /// Compiland.
    pub module: ModuleId,
    /// S_GPROC32 rather than S_LPROC32.
    pub global: bool,
    /// S_THUNK32 or a linker's trampoline rather than a procedure.
    pub thunk: bool,
    /// Marked as not returning.
    pub no_return: bool,
    /// Function type as text.
    pub prototype: Option<String>,
    /// Structures used by parameters, locals and the return value, sorted.
    pub udts: Vec<UdtId>,
    /// Inlined calls in record order.
    pub inlined: Vec<InlineSite>,
    /// Type indices of structures that `udts` is made from.
    types: Vec<u32>,
    /// Those of them that are reached through a pointer.
    pointed: Vec<u32>,
}

/// A part of a procedure that lies elsewhere (S_SEPCODE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeparatedCode {
    /// First byte.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
    /// Entry of the procedure that it belongs to.
    pub parent: u32,
}

/// A variable or constant with a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSymbol {
    /// First byte.
    pub rva: u32,
    /// Bytes by its type, `None` for incomplete types.
    pub size: Option<u64>,
    /// Undecorated name.
    pub name: String,
    /// Compiland, if the symbol stands in one's stream.
    pub module: Option<ModuleId>,
    /// Entry of the procedure whose static local it is.
    pub scope: Option<u32>,
    /// S_GDATA32 rather than S_LDATA32.
    pub global: bool,
    /// Type as text.
    pub type_name: String,
    /// The structure it is, or is an array of.
    pub udt: Option<UdtId>,
    type_index: u32,
}

/// A thread-local variable.
pub type ThreadSymbol = DataSymbol;

/// S_PUB32: a name that the linker knew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicSymbol {
    /// Address.
    pub rva: u32,
    /// Decorated name.
    pub name: String,
    /// Marked as a function.
    pub function: bool,
}

/// Bytes of one section of one object file in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// First byte.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
    /// Compiland.
    pub module: Option<ModuleId>,
    /// IMAGE_SCN_* flags of the object file's section.
    pub characteristics: u32,
}

/// S_ARMSWITCHTABLE: a jump table that the compiler described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SwitchTable {
    /// First entry.
    pub table: u32,
    /// Number of entries.
    pub entries: u32,
    /// Bytes per entry.
    pub width: u8,
    /// True for entries that hold addresses, false for differences to `base`.
    pub absolute: bool,
    /// Entries are shifted left by one before they are added (1) or not (0).
    pub shift: u8,
    /// RVA that entries are relative to.
    pub base: u32,
    /// The indirect jump.
    pub jump: u32,
}

impl SwitchTable {
    /// How an entry encodes an address.
    pub fn form(&self) -> Form {
        if self.absolute { Form::Absolute } else { Form::Relative }
    }
}

/// What one compiland's stream says.
#[derive(Default)]
pub struct ModuleSymbols {
    compiler: Option<String>,
    language: Option<String>,
    lto: bool,
    globals: GlobalSymbols,
    procedures: Vec<ProcedureSymbol>,
    separated: Vec<SeparatedCode>,
    hotpatched: Vec<String>,
    lines: ModuleLines,
}

/// Symbols that stand in compilands and in the global stream alike.
#[derive(Default)]
pub struct GlobalSymbols {
    data: Vec<DataSymbol>,
    threads: Vec<ThreadSymbol>,
    publics: Vec<PublicSymbol>,
    switch_tables: Vec<SwitchTable>,
}

type Place<'a> = &'a (dyn Fn(u16, u32) -> Option<u32> + Sync);

/// Reads the stream of compiland `index`.
pub fn module(
    index: usize,
    stream: &ModuleStream,
    types: &TypeTable<'_>,
    place: Place<'_>,
    strings: &Strings,
) -> Result<ModuleSymbols, Damage> {
    let id = ModuleId::from(index);
    let mut out = ModuleSymbols::default();
    // Open scopes: the procedure each belongs to, as an index into `procedures`.
    let mut scopes: Vec<Option<usize>> = Vec::new();
    for record in Records::new(STREAM, &stream.symbols, 0) {
        let (at, kind, c) = record?;
        let current = scopes.last().copied().flatten();
        one(&mut out, id, kind, c, current, &mut scopes, types, place)
            .ok_or_else(|| Damage::new(STREAM, at, &format!("a whole symbol record of kind {kind:#06x}")))?;
    }
    out.lines = lines::module(&stream.lines, place, strings)?;
    Ok(out)
}

#[expect(clippy::too_many_arguments, reason = "one step of the loop above, kept apart so that `?` ends a record")]
fn one(
    out: &mut ModuleSymbols,
    id: ModuleId,
    kind: u16,
    record: Cursor<'_>,
    current: Option<usize>,
    scopes: &mut Vec<Option<usize>>,
    types: &TypeTable<'_>,
    place: Place<'_>,
) -> Option<()> {
    let mut c = record;
    match kind {
        // Procedures; kinds 0x1146, 0x1147 and 0x1156 name their type through an id.
        0x110f | 0x1110 | 0x1146 | 0x1147 | 0x1155 | 0x1156 => {
            c.take(12)?;
            let size = c.u32()?;
            c.take(8)?;
            let (mut function_type, offset, section, flags) = (c.u32()?, c.u32()?, c.u16()?, c.u8()?);
            let name = c.name()?;
            if matches!(kind, 0x1146 | 0x1147 | 0x1156) {
                function_type = types.id_type(function_type).unwrap_or(0);
            }
            let Some(rva) = place(section, offset) else {
                scopes.push(None);
                return Some(());
            };
            scopes.push(Some(out.procedures.len()));
            out.procedures.push(ProcedureSymbol {
                rva,
                size,
                name,
                module: id,
                global: matches!(kind, 0x1110 | 0x1147),
                thunk: false,
                no_return: flags & 8 != 0,
                prototype: (function_type != 0).then(|| types.text(function_type)),
                udts: Vec::new(),
                inlined: Vec::new(),
                types: types.signature(function_type).iter().filter_map(|&t| types.udt(t, true)).collect(),
                pointed: types.signature(function_type).iter().filter_map(|&t| pointed(types, t)).collect(),
            });
        }
        0x1102 => {
            c.take(12)?;
            let (offset, section, size, _) = (c.u32()?, c.u16()?, c.u16()?, c.u8()?);
            let name = c.name()?;
            scopes.push(None);
            if let Some(rva) = place(section, offset) {
                out.procedures.push(thunk(rva, size.into(), name, id));
            }
        }
        0x112c => {
            let (_, size, offset, _, section) = (c.u16()?, c.u16()?, c.u32()?, c.u32()?, c.u16()?);
            if let Some(rva) = place(section, offset) {
                out.procedures.push(thunk(rva, size.into(), String::new(), id));
            }
        }
        0x1132 => {
            c.take(8)?;
            let (size, _, offset, parent_offset) = (c.u32()?, c.u32()?, c.u32()?, c.u32()?);
            let (section, parent_section) = (c.u16()?, c.u16()?);
            scopes.push(current);
            if let (Some(rva), Some(parent)) = (place(section, offset), place(parent_section, parent_offset)) {
                out.separated.push(SeparatedCode { rva, size, parent });
            }
        }
        // Blocks and `with` statements.
        0x1103 | 0x1104 => scopes.push(current),
        0x114d | 0x115d => {
            c.take(8)?;
            let callee = c.u32()?;
            scopes.push(current);
            if let Some(procedure) = current {
                let name = types.id_name(callee).unwrap_or_else(|| "<unknown function>".to_owned());
                out.procedures[procedure].inlined.push(InlineSite { name });
            }
        }
        0x0006 | 0x114e | 0x114f => {
            scopes.pop();
        }
        // S_HOTPATCHFUNC: a function id and the linker's name.
        0x1169 => {
            c.u32()?;
            out.hotpatched.push(c.name()?);
        }
        0x113e => local(out, current, types, c.u32()?),
        0x1111 | 0x110b => {
            c.u32()?;
            local(out, current, types, c.u32()?);
        }
        0x1106 => local(out, current, types, c.u32()?),
        0x113c | 0x1116 => {
            let flags = c.u32()?;
            c.take(if kind == 0x113c { 18 } else { 14 })?;
            // The linker's own compiland also lists import thunks of other languages; the first record counts.
            if out.compiler.is_none() {
                out.compiler = Some(c.name()?);
                out.language = Some(language(flags as u8));
                out.lto = flags & 0x400 != 0;
            }
        }
        _ => {
            let scope = current.map(|i| out.procedures[i].rva);
            global(&mut out.globals, Some(id), scope, kind, c, types, place)?;
        }
    }
    Some(())
}

fn thunk(rva: u32, size: u32, name: String, module: ModuleId) -> ProcedureSymbol {
    ProcedureSymbol {
        rva,
        size,
        name,
        module,
        global: false,
        thunk: true,
        no_return: false,
        prototype: None,
        udts: Vec::new(),
        inlined: Vec::new(),
        types: Vec::new(),
        pointed: Vec::new(),
    }
}

/// The structure that a type leads to through at least one pointer.
fn pointed(types: &TypeTable<'_>, index: u32) -> Option<u32> {
    types.udt(index, true).filter(|_| types.udt(index, false).is_none())
}

fn local(out: &mut ModuleSymbols, current: Option<usize>, types: &TypeTable<'_>, index: u32) {
    if let Some((procedure, udt)) = current.zip(types.udt(index, true)) {
        out.procedures[procedure].types.push(udt);
        out.procedures[procedure].pointed.extend(pointed(types, index));
    }
}

/// Records that may stand in either kind of stream. Unknown kinds are skipped: there are many that say nothing about
/// addresses.
fn global(
    out: &mut GlobalSymbols,
    module: Option<ModuleId>,
    scope: Option<u32>,
    kind: u16,
    record: Cursor<'_>,
    types: &TypeTable<'_>,
    place: Place<'_>,
) -> Option<()> {
    let mut c = record;
    match kind {
        0x110c | 0x110d | 0x1112 | 0x1113 => {
            let (type_index, offset, section) = (c.u32()?, c.u32()?, c.u16()?);
            let name = c.name()?;
            let Some(rva) = place(section, offset) else { return Some(()) };
            let symbol = DataSymbol {
                rva,
                size: types.size(type_index).filter(|&s| s != 0),
                name,
                module,
                scope,
                global: matches!(kind, 0x110d | 0x1113),
                type_name: types.text(type_index),
                udt: None,
                type_index: types.udt(type_index, false).unwrap_or(0),
            };
            if matches!(kind, 0x110c | 0x110d) { out.data.push(symbol) } else { out.threads.push(symbol) }
        }
        0x110e => {
            let (flags, offset, section) = (c.u32()?, c.u32()?, c.u16()?);
            let name = c.name()?;
            if let Some(rva) = place(section, offset) {
                out.publics.push(PublicSymbol { rva, name, function: flags & 2 != 0 });
            }
        }
        0x1159 => {
            let (base, base_section, entry) = (c.u32()?, c.u16()?, c.u16()?);
            let (jump, table, jump_section, table_section) = (c.u32()?, c.u32()?, c.u16()?, c.u16()?);
            let entries = c.u32()?;
            let (width, absolute, shift) = match entry {
                0 | 1 => (1, false, 0),
                2 | 3 => (2, false, 0),
                4 | 5 => (4, false, 0),
                6 => (8, true, 0),
                7 | 9 => (1, false, 1),
                8 | 10 => (2, false, 1),
                _ => return Some(()),
            };
            let places = (place(table_section, table), place(jump_section, jump), place(base_section, base));
            if let (Some(table), Some(jump), Some(base)) = places {
                out.switch_tables.push(SwitchTable { table, entries, width, absolute, shift, base, jump });
            }
        }
        _ => {}
    }
    Some(())
}

/// Reads the global symbol records.
pub fn globals(records: &[u8], types: &TypeTable<'_>, place: Place<'_>) -> Result<GlobalSymbols, Damage> {
    const STREAM: &str = "symbol records";
    let mut out = GlobalSymbols::default();
    for record in Records::new(STREAM, records, 0) {
        let (at, kind, c) = record?;
        global(&mut out, None, None, kind, c, types, place)
            .ok_or_else(|| Damage::new(STREAM, at, &format!("a whole symbol record of kind {kind:#06x}")))?;
    }
    Ok(out)
}

/// Puts the parts together and brings them into the order of addresses.
pub(super) fn merge(
    pdb: &mut Pdb,
    streams: Vec<ModuleStream>,
    modules: Vec<ModuleSymbols>,
    globals: GlobalSymbols,
    index: &UdtIndex,
) {
    let mut lines = Vec::new();
    let mut all = Vec::new();
    for (stream, module) in streams.into_iter().zip(modules) {
        let ModuleSymbols { compiler, language, lto, globals, procedures, separated, hotpatched, lines: own } = module;
        let id = ModuleId::from(pdb.modules.len());
        pdb.modules.push(Module { name: stream.name, compiler, language, lto });
        pdb.procedures.extend(procedures);
        pdb.separated.extend(separated);
        pdb.hotpatched.extend(hotpatched.into_iter().map(|name| (id, name)));
        lines.push(own);
        all.push(globals);
    }
    all.push(globals);
    for g in all {
        pdb.data.extend(g.data);
        pdb.threads.extend(g.threads);
        pdb.publics.extend(g.publics);
        pdb.switch_tables.extend(g.switch_tables);
    }
    let mut through_pointers: Vec<UdtId> =
        pdb.procedures.iter().flat_map(|p| &p.pointed).flat_map(|&t| index.get(t)).copied().collect();
    through_pointers.sort_unstable();
    through_pointers.dedup();
    pdb.types.pointed = Some(through_pointers);
    for p in &mut pdb.procedures {
        p.pointed = Vec::new();
        p.udts = p.types.iter().flat_map(|&t| index.get(t)).copied().collect();
        p.udts.sort_unstable();
        p.udts.dedup();
        p.types = Vec::new();
    }
    pdb.procedures.sort_by(|a, b| (a.rva, a.thunk, a.module, &a.name).cmp(&(b.rva, b.thunk, b.module, &b.name)));
    pdb.separated.sort_unstable();
    pdb.separated.dedup();
    pdb.hotpatched.sort_unstable();
    pdb.hotpatched.dedup();
    for list in [&mut pdb.data, &mut pdb.threads] {
        for d in list.iter_mut() {
            d.udt = index.get(d.type_index).first().copied();
            d.type_index = 0;
        }
        // The copy in a compiland knows more than the one in the global stream: it goes first and stays.
        list.sort_by(|a, b| {
            let key = |d: &DataSymbol| (d.module.is_none(), d.scope.is_none(), d.module);
            (a.rva, &a.name, key(a), &a.type_name).cmp(&(b.rva, &b.name, key(b), &b.type_name))
        });
        list.dedup_by(|b, a| {
            let same = a.rva == b.rva && a.name == b.name;
            a.global |= same && b.global;
            same
        });
    }
    pdb.publics.sort_unstable();
    pdb.publics.dedup();
    pdb.switch_tables.sort_unstable();
    pdb.switch_tables.dedup();
    pdb.lines = lines::merge(lines);
}

fn language(code: u8) -> String {
    match code {
        0x00 => "c",
        0x01 => "cpp",
        0x02 => "fortran",
        0x03 => "masm",
        0x07 => "link",
        0x08 => "cvtres",
        0x0a => "csharp",
        0x10 => "hlsl",
        0x11 => "objc",
        0x12 => "objcpp",
        0x13 => "swift",
        0x15 => "rust",
        0x16 => "go",
        b'D' => "d",
        b'S' => "swift",
        b'R' => "rust",
        other => return format!("language {other:#04x}"),
    }
    .to_owned()
}
