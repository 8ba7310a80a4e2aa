//! Which data objects there are and where they end.
//!
//! First what has a known extent: directories, unwind data, tables of the compiler, symbols with a type. What is left
//! between them is cut at every border: symbols without a type, public names, contributions of object files, and every
//! address that anything refers to.

use super::pieces::{Piece, disjoint, joins};
use super::{Conflict, Found, Table, strings};
use crate::code::{Access, RawReference};
use crate::entity::{FunctionId, ObjectId};
use crate::function::{Evidence, JumpTable, Linkage};
use crate::image::{Image, Section};
use crate::object::{Extent, Object, ObjectKind};
use crate::pdb::{Contribution, DataSymbol, Pdb};
use crate::pe::Directories;
use crate::program::Program;
use crate::reference::Form;
use crate::unwind::UnwindTable;
use rustc_hash::FxHashMap;

/// The objects of an image.
pub struct Objects {
    /// Sorted, disjoint.
    pub objects: Vec<Object>,
}

/// A border inside of bytes whose extents are not known.
#[derive(Clone, Copy)]
struct Border {
    rva: u32,
    evidence: Evidence,
    /// Something begins here, as opposed to: something else ends here.
    begins: bool,
    /// Nothing but instructions that read or write a few bytes refers to this address. It may be a place inside of an
    /// object that begins before it.
    weak: bool,
    /// The bytes before and after belong to different contributions.
    hard: bool,
}

struct Finder<'a> {
    image: &'a Image,
    pdb: &'a Pdb,
    directories: &'a Directories,
    /// Data symbols and thread-local ones, sorted by RVA.
    symbols: Vec<&'a DataSymbol>,
    by_rva: FxHashMap<u32, usize>,
    publics: FxHashMap<u32, &'a str>,
    public_by_name: FxHashMap<&'a str, u32>,
    /// See [`parts`].
    parts: Vec<(u32, u32)>,
}

/// Finds all objects. `raw` holds all references, sorted by site.
pub fn find(
    image: &Image,
    pdb: &Pdb,
    directories: &Directories,
    unwind: &UnwindTable,
    found: &Found,
    raw: &[RawReference],
    conflicts: &mut Vec<Conflict>,
) -> Objects {
    let mut symbols: Vec<&DataSymbol> = pdb.data.iter().chain(&pdb.threads).collect();
    // Of several symbols at an address: typed, longest, global, then by name, so that every build chooses alike.
    symbols.sort_by(|a, b| {
        let key = |d: &DataSymbol| (d.rva, d.size.is_none(), u64::MAX - d.size.unwrap_or(0), !d.global);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    let mut by_rva = FxHashMap::default();
    for (i, s) in symbols.iter().enumerate() {
        by_rva.entry(s.rva).or_insert(i);
    }
    let mut publics: FxHashMap<u32, &str> = FxHashMap::default();
    for p in pdb.publics.iter().filter(|p| !is_marker(&p.name)) {
        publics.entry(p.rva).or_insert(&p.name);
    }
    let public_by_name = pdb.publics.iter().map(|p| (p.name.as_str(), p.rva)).collect();
    let parts = parts(found);
    let finder = Finder { image, pdb, directories, symbols, by_rva, publics, public_by_name, parts };

    let known = disjoint(finder.known(unwind, found), conflicts);
    let borders = finder.borders(raw, &found.accesses);
    let mut pieces = Vec::with_capacity(2 * known.len());
    let mut next = 0;
    for section in &image.sections {
        let end = section.rva + section.size;
        let mut at = section.rva;
        while next < known.len() && known[next].rva < end {
            finder.fill(section, at, known[next].rva, found, &borders, &mut pieces);
            at = at.max(known[next].end);
            pieces.push(known[next].clone());
            next += 1;
        }
        finder.fill(section, at, end, found, &borders, &mut pieces);
    }
    Objects { objects: pieces.iter().map(|p| finder.object(p)).collect() }
}

impl Finder<'_> {
    /// Everything whose end is known.
    fn known(&self, unwind: &UnwindTable, found: &Found) -> Vec<Piece> {
        let mut out = Vec::new();
        let mut add = |rva: u32, size: u64, kind, extent, evidence, symbol| {
            // Nothing extends over the end of its section.
            let Some(section) = self.image.section_at(rva) else { return };
            let end = u64::from(rva) + size;
            let end = end.min(u64::from(section.rva) + u64::from(section.size)) as u32;
            out.push(Piece { rva, end, extent, kind, evidence, symbol });
        };
        // DWARF; on this machine exceptions are unwound through .pdata, and nothing reads these while the image runs.
        for s in self.image.sections.iter().filter(|s| s.name.starts_with(".debug_") || s.name == ".eh_frame") {
            add(s.rva, s.size.into(), ObjectKind::Debug, Extent::Exact, Evidence::DIRECTORY, None);
        }
        for area in &self.directories.areas {
            // The template is cut into the variables in it.
            if area.kind != ObjectKind::TlsTemplate {
                add(area.rva, area.size.into(), area.kind, Extent::Exact, Evidence::DIRECTORY, None);
            }
        }
        for &(rva, size) in &unwind.objects {
            add(rva, size.into(), ObjectKind::Unwind, Extent::Exact, Evidence::UNWIND, None);
        }
        for table in &found.tables {
            let kind = if table.jump.is_some() { ObjectKind::JumpTable(table.function) } else { ObjectKind::Data };
            let extent = if table.proven { Extent::Exact } else { Extent::Boundary };
            add(table.rva, (table.end() - table.rva).into(), kind, extent, Evidence::JUMP_TABLE, None);
        }
        for (first, last, kind) in [
            ("__xc_a", "__xc_z", ObjectKind::InitializerTable),
            ("__xi_a", "__xi_z", ObjectKind::InitializerTable),
            ("__xp_a", "__xp_z", ObjectKind::InitializerTable),
            ("__xt_a", "__xt_z", ObjectKind::InitializerTable),
            ("__xl_a", "__xl_z", ObjectKind::InitializerTable),
        ] {
            if let Some((&start, &end)) = self.public_by_name.get(first).zip(self.public_by_name.get(last))
                && let Some(size) = end.checked_sub(start)
            {
                // Both names stand for a pointer of their own.
                add(start, u64::from(size) + 8, kind, Extent::Exact, Evidence::PDB_PUBLIC, None);
            }
        }
        let pseudo = ("__RUNTIME_PSEUDO_RELOC_LIST__", "__RUNTIME_PSEUDO_RELOC_LIST_END__");
        if let Some((&start, &end)) = self.public_by_name.get(pseudo.0).zip(self.public_by_name.get(pseudo.1))
            && let Some(size) = end.checked_sub(start)
        {
            add(start, size.into(), ObjectKind::PseudoRelocations, Extent::Exact, Evidence::PDB_PUBLIC, None);
        }
        for name in ["__CTOR_LIST__", "__DTOR_LIST__"] {
            if let Some(&start) = self.public_by_name.get(name) {
                let size = self.pointer_list(start);
                add(start, size, ObjectKind::InitializerTable, Extent::Exact, Evidence::PDB_PUBLIC, None);
            }
        }
        // Code refers to places inside of a vtable, which are no objects of their own.
        for (i, p) in self.pdb.publics.iter().enumerate() {
            let Some(kind) = kind_by_name(&p.name) else { continue };
            let next = self.pdb.publics[i + 1..].iter().map(|n| n.rva).find(|&rva| rva > p.rva);
            let Some(end) = self.contribution(p.rva).map(|c| c.rva + c.size) else { continue };
            let end = next.map_or(end, |n| n.min(end));
            add(p.rva, (end - p.rva).into(), kind, Extent::Boundary, Evidence::PDB_PUBLIC, None);
        }
        for (i, symbol) in self.symbols.iter().enumerate() {
            if let Some(size) = symbol.size
                && self.by_rva.get(&symbol.rva) == Some(&i)
                && !self.image.section_at(symbol.rva).is_none_or(Section::is_executable)
            {
                add(symbol.rva, size, self.plain_kind(symbol.rva), Extent::Exact, Evidence::PDB_SYMBOL, Some(i));
            }
        }
        out
    }

    /// Bytes of a list of pointers that begins with a count or -1 and ends with a null pointer.
    fn pointer_list(&self, start: u32) -> u64 {
        let mut n = 1_u32;
        while let Some(1..) = start.checked_add(8 * n).and_then(|at| self.image.u64(at)) {
            n += 1;
        }
        u64::from(n + 1) * 8
    }

    fn plain_kind(&self, rva: u32) -> ObjectKind {
        let template = self.directories.tls.as_ref().is_some_and(|t| {
            rva.checked_sub(t.template)
                .is_some_and(|d| d < t.template_size.max(t.template_size.saturating_add(t.zero_fill)))
        });
        if template { ObjectKind::TlsTemplate } else { ObjectKind::Data }
    }

    /// All borders in data, sorted, one per address.
    fn borders(&self, raw: &[RawReference], accesses: &[Access]) -> Vec<Border> {
        let mut out: Vec<Border> = Vec::new();
        let mut add = |rva, evidence, begins, weak| out.push(Border { rva, evidence, begins, weak, hard: !begins });
        for s in &self.symbols {
            add(s.rva, Evidence::PDB_SYMBOL, true, false);
        }
        for p in self.pdb.publics.iter().filter(|p| !is_marker(&p.name)) {
            add(p.rva, Evidence::PDB_PUBLIC, true, false);
        }
        for c in &self.pdb.contributions {
            add(c.rva, Evidence::empty(), false, true);
            add(c.rva + c.size, Evidence::empty(), false, true);
        }
        for r in raw {
            let in_code = self.image.section_at(r.site).is_some_and(Section::is_executable);
            match r.form {
                _ if !in_code && r.form != Form::Absolute => add(r.rva, Evidence::DIRECTORY, true, false),
                Form::Absolute => add(r.rva, Evidence::BASE_RELOCATION, true, false),
                // Whether the address is taken or only used is told by the accesses.
                Form::RipRelative => {}
                _ => add(r.rva, Evidence::CODE_REFERENCE, true, false),
            }
        }
        for a in accesses {
            add(a.rva, Evidence::CODE_REFERENCE, true, a.size != 0);
        }
        if let Some(tls) = &self.directories.tls {
            add(tls.template, Evidence::DIRECTORY, true, false);
            add(tls.index, Evidence::DIRECTORY, true, false);
        }
        if let Some(config) = &self.directories.load_config {
            add(config.security_cookie, Evidence::DIRECTORY, true, false);
        }
        out.sort_by_key(|b| b.rva);
        out.dedup_by(|later, kept| {
            let same = later.rva == kept.rva;
            if same {
                kept.evidence |= later.evidence;
                kept.begins |= later.begins;
                kept.weak &= later.weak;
                kept.hard |= later.hard;
            }
            same
        });
        out
    }

    /// The contribution that holds `rva`.
    fn contribution(&self, rva: u32) -> Option<&Contribution> {
        let i = self.pdb.contributions.partition_point(|c| c.rva <= rva).checked_sub(1)?;
        Some(&self.pdb.contributions[i]).filter(|c| rva < c.rva + c.size)
    }

    /// Makes objects of the bytes from `start` to `end`, none of which has a known extent.
    fn fill(&self, section: &Section, start: u32, end: u32, found: &Found, borders: &[Border], out: &mut Vec<Piece>) {
        if start >= end {
            return;
        }
        let first = borders.partition_point(|b| b.rva <= start);
        let last = borders.partition_point(|b| b.rva < end);
        let exact = borders.binary_search_by_key(&start, |b| b.rva).ok().map(|i| borders[i]);
        let mut current =
            exact.unwrap_or(Border { rva: start, evidence: Evidence::empty(), begins: false, weak: true, hard: true });
        let inside = &borders[first..last.max(first)];
        for border in inside.iter().copied() {
            if border.weak && !border.hard && !section.is_executable() {
                // What instructions read from one place belongs to one object, and what has its address taken may
                // reach over the places that are read directly.
                let reaches = self.access_end(found, current.rva, border.rva) > border.rva;
                let taken = current.begins && !current.weak && !section.is_writable();
                if reaches || (taken && self.text(found, current.rva, border.rva).is_none()) {
                    continue;
                }
            }
            self.segment(section, current, border.rva, found, out);
            current = border;
        }
        self.segment(section, current, end, found, out);
    }

    /// First byte behind what instructions read or write beginning in `[start, end)`.
    fn access_end(&self, found: &Found, start: u32, end: u32) -> u32 {
        let first = found.accesses.partition_point(|a| a.rva < start);
        let here = found.accesses[first..].iter().take_while(|a| a.rva < end);
        here.map(|a| a.rva.saturating_add(a.size)).max().unwrap_or(start)
    }

    /// Kind and bytes of the text that fills `[start, end)`, unless instructions read more than it.
    fn text(&self, found: &Found, start: u32, end: u32) -> Option<(ObjectKind, u32)> {
        let bytes = self.image.bytes(start, (end - start) as usize)?;
        let (kind, size) = strings::recognise(bytes, start.is_multiple_of(4))?;
        // Zeros behind the terminator are padding only if they are what the alignment of the next object needs. More
        // of them belong to an array that is longer than its text. Nothing is aligned at the end of a contribution,
        // except by the GNU assembler, which fills up sections and writes no compiler record.
        let zeros = end - start - size;
        let alignment = match self.contribution(start) {
            Some(c) if c.rva + c.size == end => {
                let told = c.module.is_some_and(|m| self.pdb.modules[m.index()].compiler.is_some());
                if told { 1 } else { 16 }
            }
            _ => 16,
        };
        let padding = zeros == 0 || zeros < alignment.min(1 << end.trailing_zeros().min(4));
        (padding && self.access_end(found, start, start + size) <= start + size).then_some((kind, size))
    }

    fn segment(&self, section: &Section, from: Border, end: u32, found: &Found, out: &mut Vec<Piece>) {
        let start = from.rva;
        let bytes = self.image.bytes(start, (end - start) as usize).unwrap_or_default();
        let zero = bytes.iter().all(|&b| b == 0);
        let contribution = self.contribution(start);
        let mut evidence = from.evidence;
        if contribution.is_some() {
            evidence |= Evidence::CONTRIBUTION;
        }
        if section.is_executable() {
            // Code is not data, and what is neither is left to the account of bytes unless something refers to it.
            let code = self.is_function(found, start, end);
            let filler = crate::code::filler_length(bytes) == bytes.len();
            if code || filler || !from.begins {
                return;
            }
        } else if from.begins {
            // An address behind the last byte of a contribution that holds nothing but zeros is the end of what is
            // before it.
            let named = evidence.intersects(Evidence::PDB_SYMBOL | Evidence::PDB_PUBLIC);
            let outside = contribution.is_none() && !self.pdb.contributions.is_empty();
            if outside && zero && !named && self.ends_something(start, out) {
                return;
            }
        } else if zero || contribution.is_none() {
            return;
        }
        let kind = self.plain_kind(start);
        let symbol = self.by_rva.get(&start).copied();
        let mut piece = Piece { rva: start, end, extent: Extent::Boundary, kind, evidence, symbol };
        let text = kind == ObjectKind::Data && !section.is_writable();
        if text && let Some((kind, size)) = self.text(found, start, end) {
            piece = Piece { end: start + size, extent: Extent::Exact, kind, ..piece };
        }
        out.push(piece);
    }

    /// True if a function has code there.
    fn is_function(&self, found: &Found, start: u32, end: u32) -> bool {
        let before = found.functions.partition_point(|f| f.rva() < end).checked_sub(1);
        let part = self.parts.partition_point(|p| p.0 < end).checked_sub(1);
        before.is_some_and(|i| found.functions[i].ranges[0].end() > start)
            || part.is_some_and(|i| self.parts[i].1 > start)
    }

    fn ends_something(&self, rva: u32, out: &[Piece]) -> bool {
        out.last().is_some_and(|p| p.end == rva) || rva.checked_sub(1).is_some_and(|r| self.contribution(r).is_some())
    }

    fn object(&self, piece: &Piece) -> Object {
        let section = self.image.section_at(piece.rva);
        // A name at the start of a table of the linker is that of its first entry.
        let nameless = joins(piece.kind) && piece.kind != ObjectKind::InitializerTable;
        let symbol = piece.symbol.or_else(|| self.by_rva.get(&piece.rva).copied());
        let symbol = symbol.filter(|_| !nameless).map(|i| self.symbols[i]);
        let public = self.publics.get(&piece.rva).copied().filter(|_| !nameless);
        let mut evidence = piece.evidence;
        if symbol.is_some() {
            evidence |= Evidence::PDB_SYMBOL;
        }
        if public.is_some() {
            evidence |= Evidence::PDB_PUBLIC;
        }
        let writable = section.is_some_and(Section::is_writable);
        let size = piece.end - piece.rva;
        let mut kind = piece.kind;
        if kind == ObjectKind::Data {
            kind = public.and_then(kind_by_name).unwrap_or(kind);
            let text = symbol.is_some_and(|s| s.size.is_some() && is_text_type(&s.type_name));
            if kind == ObjectKind::Data && text && !writable {
                let bytes = self.image.bytes(piece.rva, size as usize).unwrap_or_default();
                kind = strings::recognise(bytes, false).map_or(kind, |(kind, _)| kind);
            }
        }
        let module = symbol.and_then(|s| s.module).or_else(|| self.contribution(piece.rva).and_then(|c| c.module));
        Object {
            name: symbol.map(|s| s.name.clone()).or_else(|| public.map(str::to_owned)),
            decorated: public.map(str::to_owned),
            rva: piece.rva,
            size,
            extent: piece.extent,
            kind,
            writable,
            zero_fill: section.is_some_and(|s| piece.rva >= s.rva.saturating_add(s.file_size)),
            module,
            scope: None,
            linkage: match symbol {
                Some(s) if s.global => Linkage::Global,
                Some(_) => Linkage::Local,
                None if public.is_some() => Linkage::Global,
                None => Linkage::Unknown,
            },
            evidence,
            type_name: symbol.map(|s| s.type_name.clone()),
            udt: symbol.and_then(|s| s.udt),
        }
    }
}

/// First bytes of the parts of functions beside their entry ranges, and the furthest end up to each, sorted.
fn parts(found: &Found) -> Vec<(u32, u32)> {
    let parts = found.functions.iter().flat_map(|f| &f.ranges[1..]);
    let mut out: Vec<(u32, u32)> = parts.map(|r| (r.rva, r.end())).collect();
    out.sort_unstable();
    let mut furthest = 0;
    for (_, end) in &mut out {
        furthest = furthest.max(*end);
        *end = furthest;
    }
    out
}

fn is_text_type(type_name: &str) -> bool {
    let element = type_name.rsplit_once('[').map_or("", |(element, _)| element);
    matches!(
        element.trim_start_matches("const ").trim_start_matches("volatile "),
        "char" | "unsigned char" | "signed char" | "wchar_t" | "char16_t" | "char8_t"
    )
}

/// Names that mingw's linker script gives to the ends of a list that is usually empty: they stand at whatever comes next.
fn is_marker(name: &str) -> bool {
    matches!(name, "__RUNTIME_PSEUDO_RELOC_LIST__" | "__RUNTIME_PSEUDO_RELOC_LIST_END__")
}

/// Kinds that decorated names tell.
fn kind_by_name(name: &str) -> Option<ObjectKind> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    if starts(&["??_7", "_ZTV", "_ZTC"]) {
        Some(ObjectKind::VTable)
    } else if starts(&["??_R0", "??_R1", "??_R2", "??_R3", "??_R4", "_ZTI", "_ZTS"]) {
        Some(ObjectKind::Rtti)
    } else {
        None
    }
}

/// Connects objects and functions: static locals with the functions they belong to, tables with the code that uses them.
pub fn link(program: &mut Program, tables: &[Table], pdb: &Pdb) {
    for symbol in &pdb.data {
        let Some(scope) = symbol.scope.and_then(|rva| program.function_at(rva)).map(|f| f.0) else { continue };
        if let Some(object) = exactly_at(program, symbol.rva)
            && program.objects[object.index()].name.as_deref() == Some(symbol.name.as_str())
        {
            program.objects[object.index()].scope = Some(scope);
        }
    }
    for table in tables {
        let Some(jump) = table.jump else { continue };
        let Some(object) = program.object_at(table.rva) else { continue };
        let own = program.objects[object.index()].module.or(program.functions[table.function.index()].module);
        program.objects[object.index()].module = own;
        let entry = JumpTable { object, jump, entries: table.entries, width: table.width, bound_proven: table.proven };
        let list: &mut Vec<JumpTable> = &mut program.functions[FunctionId::index(table.function)].jump_tables;
        list.push(entry);
    }
    for function in &mut program.functions {
        function.jump_tables.sort_by_key(|t| (t.jump, t.object));
    }
}

fn exactly_at(program: &Program, rva: u32) -> Option<ObjectId> {
    program.objects.binary_search_by_key(&rva, |o| o.rva).ok().map(ObjectId::from)
}
