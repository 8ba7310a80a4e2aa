//! RUNTIME_FUNCTION and UNWIND_INFO of x64, and which handler data stands behind them.

use super::cursor::{Cursor, Damage, Read};
use super::{CodeTarget, CodeTargetKind, HandlerData, UnwindInfo, UnwindTable, cxx, lsda};
use crate::code::RawReference;
use crate::error::{Error, Result};
use crate::function::Problem;
use crate::image::Image;
use crate::reference::Form;
use rustc_hash::FxHashMap;

const EXCEPTION_DIRECTORY: usize = 3;
const FLAG_HANDLERS: u8 = 1 | 2;
const FLAG_CHAINED: u8 = 4;

/// FuncInfo graphs by RVA: a function and its funclets share one. Objects and references have been moved out.
type Graphs = FxHashMap<u32, cxx::Graph>;

/// What is known of one UNWIND_INFO, however many functions share it.
struct Info {
    size: u32,
    chained: bool,
    handler_data: HandlerData,
    /// Code named by absolute RVA.
    targets: Vec<(u32, CodeTargetKind)>,
    /// Landing pads as offsets from the start of the function.
    offsets: Vec<u32>,
}

/// See [`super::read`].
pub(super) fn read(image: &Image, handler_name: &dyn Fn(u32) -> Option<String>) -> Result<UnwindTable> {
    let mut table = UnwindTable::default();
    let (start, size) = image.directories.get(EXCEPTION_DIRECTORY).copied().unwrap_or((0, 0));
    if start == 0 || size == 0 {
        return Ok(table);
    }
    let Some(bytes) = image.bytes(start, size as usize) else {
        return Err(Error::Malformed {
            file: image.path.clone(),
            what: "exception directory",
            at: u64::from(start),
            expected: format!("{size} bytes inside of the image"),
        });
    };
    if size % 12 != 0 {
        table.problems.push(problem(start, "code.unwind.malformed", "size of .pdata is not a multiple of 12".into()));
    }
    let mut infos: FxHashMap<u32, Option<Info>> = FxHashMap::default();
    let mut graphs: Graphs = FxHashMap::default();
    let mut spent = 0usize;
    let mut before = 0;
    for (i, entry) in bytes.chunks_exact(12).enumerate() {
        let site = start + 12 * i as u32;
        let field = |n: usize| u32::from_le_bytes([entry[n], entry[n + 1], entry[n + 2], entry[n + 3]]);
        let (begin, end, info) = (field(0), field(4), field(8));
        if (begin, end, info) == (0, 0, 0) {
            continue; // padding at the end of the table
        }
        let mut bad = |text: String| table.problems.push(problem(site, "code.unwind.malformed", text));
        if begin >= end || end as usize > image.mapped.len() || info as usize >= image.mapped.len() {
            bad(format!("RUNTIME_FUNCTION {begin:#x}..{end:#x} with data at {info:#x} is not inside of the image"));
            continue;
        }
        if !image.section_at(begin).is_some_and(|s| s.is_executable() && end - s.rva <= s.size) {
            bad(format!("RUNTIME_FUNCTION {begin:#x}..{end:#x} is not inside of an executable section"));
            continue;
        }
        if begin < before {
            bad(format!("RUNTIME_FUNCTION {begin:#x}..{end:#x} overlaps or precedes the entry before it"));
        }
        before = before.max(end);
        for (n, rva) in [(0, begin), (4, end), (8, info)] {
            table.references.push(RawReference { site: site + n, width: 4, form: Form::ImageRelative, origin: 0, rva });
        }
        if info & 1 != 0 {
            bad(format!("unwind data of {begin:#x} is an indirection to another RUNTIME_FUNCTION"));
            continue;
        }
        // Every byte is read about once in an honest image; overlapping data would be read again and again.
        if spent > 2 * image.mapped.len() {
            let text = format!("unwind data from {info:#x} on overlaps too much to be read");
            table.problems.push(problem(info, "code.unwind.malformed", text));
            break;
        }
        let fresh = !infos.contains_key(&info);
        let parsed = infos.entry(info).or_insert_with(|| {
            match unwind_info(image, info, handler_name, &mut graphs, &mut table) {
                Ok(parsed) => Some(parsed),
                Err(Damage { rva, expected }) => {
                    let text = format!("unwind data at {info:#x}: expected {expected} at {rva:#x}");
                    table.problems.push(problem(info, "code.unwind.malformed", text));
                    None
                }
            }
        });
        let Some(parsed) = parsed else {
            spent += usize::from(fresh) * 256;
            continue;
        };
        if fresh {
            spent += parsed.size as usize + 8 * (parsed.targets.len() + parsed.offsets.len());
        }
        if table.code_targets.len() + parsed.targets.len() + parsed.offsets.len() > image.mapped.len() {
            let text = format!("handler data at {info:#x} is shared by more functions than the image can hold");
            table.problems.push(problem(info, "code.unwind.malformed", text));
            continue;
        }
        let target = |rva, kind| CodeTarget { rva, function: begin, kind };
        table.code_targets.extend(parsed.targets.iter().map(|(rva, kind)| target(*rva, *kind)));
        for offset in &parsed.offsets {
            table.code_targets.push(target(begin.saturating_add(*offset), CodeTargetKind::LandingPad));
        }
        table.entries.push(UnwindInfo {
            entry: site,
            begin,
            end,
            info,
            size: parsed.size,
            chained: parsed.chained,
            handler_data: parsed.handler_data.clone(),
            references: Vec::new(),
        });
    }
    table.entries.sort_by_key(|e| (e.begin, e.end, e.entry));
    table.code_targets.sort_unstable();
    table.code_targets.dedup();
    table.references.sort_unstable_by_key(|r| (r.site, r.width, r.rva));
    table.references.dedup();
    disjoint(&mut table);
    Ok(table)
}

/// Sorts the extents; those that overlap are joined and reported.
fn disjoint(table: &mut UnwindTable) {
    table.objects.sort_unstable();
    table.objects.dedup();
    let mut out: Vec<(u32, u32)> = Vec::with_capacity(table.objects.len());
    for (rva, size) in table.objects.drain(..) {
        match out.last_mut() {
            Some(last) if rva < last.0 + last.1 => {
                let text = format!("unwind data at {:#x} and {rva:#x} overlaps", last.0);
                table.problems.push(problem(rva, "code.unwind.malformed", text));
                last.1 = last.1.max(rva + size - last.0);
            }
            _ => out.push((rva, size)),
        }
    }
    table.objects = out;
}

fn problem(rva: u32, key: &'static str, text: String) -> Problem {
    Problem { rva, key, text }
}

/// Slots that an unwind code takes, or `None` for a code that this version does not define.
fn slots(version: u8, op: u8, info: u8) -> Option<u8> {
    match (op, info) {
        (0 | 2 | 3 | 10, _) => Some(1),
        (1, 0) | (4 | 8, _) => Some(2),
        (1, 1) | (5 | 9, _) => Some(3),
        (6, _) if version == 2 => Some(1),
        _ => None,
    }
}

/// Reads UNWIND_INFO at `rva` with all that stands behind it; objects and references go to `table`.
fn unwind_info(
    image: &Image,
    rva: u32,
    handler_name: &dyn Fn(u32) -> Option<String>,
    graphs: &mut Graphs,
    table: &mut UnwindTable,
) -> Read<Info> {
    if !rva.is_multiple_of(4) {
        return Err(Damage { rva, expected: "4-byte alignment" });
    }
    let mut c = Cursor::new(image, rva)?;
    let first = c.u8()?;
    let (version, flags) = (first & 7, first >> 3);
    if !matches!(version, 1 | 2) {
        return Err(Damage { rva, expected: "version 1 or 2" });
    }
    if flags & !(FLAG_HANDLERS | FLAG_CHAINED) != 0 || (flags & FLAG_CHAINED != 0 && flags & FLAG_HANDLERS != 0) {
        return Err(Damage { rva, expected: "handlers or a chained entry, and no other flags" });
    }
    c.u8()?; // size of prologue
    let count = c.u8()?;
    c.u8()?; // frame register and offset
    let codes_at = c.rva;
    let codes = c.take(2 * u32::from(count))?;
    let mut i = 0;
    while i < count {
        let at = codes_at + 2 * u32::from(i);
        let byte = codes[2 * usize::from(i) + 1];
        let n = slots(version, byte & 15, byte >> 4).ok_or(Damage { rva: at, expected: "a known unwind code" })?;
        i = i.checked_add(n).filter(|i| *i <= count).ok_or(Damage { rva: at, expected: "a whole unwind code" })?;
    }
    if count % 2 != 0 && (flags != 0 || c.remaining() >= 2) {
        c.take(2)?; // the array is padded to an even count
    }

    let mut references = Vec::new();
    let mut objects = Vec::new();
    let mut info =
        Info { size: 0, chained: false, handler_data: HandlerData::None, targets: Vec::new(), offsets: Vec::new() };
    let mut end = c.rva;
    if flags & FLAG_CHAINED != 0 {
        info.chained = true;
        let site = c.rva;
        let begin = c.code(&mut references)?;
        let last = c.image_relative(&mut references)?;
        let parent = c.image_relative(&mut references)?;
        if begin == 0 || begin >= last || parent == 0 {
            return Err(Damage { rva: site, expected: "a RUNTIME_FUNCTION" });
        }
        end = c.rva;
    } else if flags & FLAG_HANDLERS != 0 {
        let site = c.rva;
        let handler = c.code(&mut references)?;
        if handler == 0 {
            return Err(Damage { rva: site, expected: "the address of a handler" });
        }
        let data = c.rva;
        let name = handler_name(handler);
        let mut inner = Handler { image, references: Vec::new(), objects: Vec::new(), graphs, info: &mut info };
        match inner.read(data, name.as_deref()) {
            Ok(known_end) => {
                end = known_end;
                references.append(&mut inner.references);
                objects.append(&mut inner.objects);
            }
            Err(damage) => {
                // The extent is not known: what follows the handler's address stays unexplained.
                let what = name.unwrap_or_else(|| format!("the handler at {handler:#x}"));
                let text = format!("data of {what} at {data:#x}: expected {} at {:#x}", damage.expected, damage.rva);
                info.handler_data = HandlerData::Unknown;
                info.targets.clear();
                info.offsets.clear();
                end = data;
                table.problems.push(problem(rva, "code.unwind.handler_unknown", text));
            }
        }
    }
    info.size = end - rva;
    table.objects.push((rva, info.size));
    table.objects.append(&mut objects);
    table.references.append(&mut references);
    Ok(info)
}

/// Handler data being read.
struct Handler<'a> {
    image: &'a Image,
    references: Vec<RawReference>,
    objects: Vec<(u32, u32)>,
    graphs: &'a mut Graphs,
    info: &'a mut Info,
}

impl Handler<'_> {
    /// Reads the data at `data` that belongs to the handler called `name`. Returns the first RVA behind it.
    fn read(&mut self, data: u32, name: Option<&str>) -> Read<u32> {
        let unknown = Damage { rva: data, expected: "a handler whose data is known" };
        let name = name.ok_or(unknown.clone())?;
        match name {
            "__C_specific_handler" | "_except_handler" => {
                self.info.handler_data = HandlerData::ScopeTable;
                self.scope_table(data)
            }
            "__gxx_personality_seh0"
            | "__gcc_personality_seh0"
            | "rust_eh_personality"
            | "__gnat_personality_seh0"
            | "__objc_personality_v0" => {
                let read = lsda::read(self.image, data)?;
                self.info.handler_data = HandlerData::ItaniumLsda;
                self.info.offsets.extend(read.landing_pads);
                self.references.extend(read.references);
                Ok(read.end)
            }
            "__CxxFrameHandler" | "__CxxFrameHandler2" | "__CxxFrameHandler3" => {
                self.info.handler_data = HandlerData::CxxFrameHandler3;
                self.func_info(data, cxx::read3)
            }
            "__CxxFrameHandler4" => {
                self.info.handler_data = HandlerData::CxxFrameHandler4;
                self.func_info(data, cxx::read4)
            }
            "__GSHandlerCheck_EH4" => {
                let end = self.func_info(data, cxx::read4)?;
                self.info.handler_data = HandlerData::GsCheck;
                self.gs_data(end)
            }
            "__GSHandlerCheck" => {
                self.info.handler_data = HandlerData::GsCheck;
                self.gs_data(data)
            }
            "__GSHandlerCheck_SEH" => {
                let end = self.scope_table(data)?;
                self.info.handler_data = HandlerData::GsCheck;
                self.gs_data(end)
            }
            "__GSHandlerCheck_EH" => {
                let end = self.func_info(data, cxx::read3)?;
                self.info.handler_data = HandlerData::GsCheck;
                self.gs_data(end)
            }
            _ => Err(unknown),
        }
    }

    /// Scope table of `__C_specific_handler`: a count, then begin, end, filter and target per scope.
    fn scope_table(&mut self, data: u32) -> Read<u32> {
        let mut c = Cursor::new(self.image, data)?;
        let count = c.u32()?;
        c.expect(count, 16)?;
        for _ in 0..count {
            c.code(&mut self.references)?;
            c.image_relative(&mut self.references)?; // first byte behind: may be the end of the section
            let site = c.rva;
            // 1 is EXCEPTION_EXECUTE_HANDLER in place of a filter.
            let filter = match c.u32()? {
                constant @ (0 | 1) => constant,
                _ => Cursor::new(self.image, site)?.code(&mut self.references)?,
            };
            let target = c.code(&mut self.references)?;
            match (filter, target) {
                (0, _) => return Err(Damage { rva: site, expected: "a filter, 1, or a termination handler" }),
                (1, 0) => return Err(Damage { rva: site, expected: "a target for the constant filter" }),
                (1, target) => self.info.targets.push((target, CodeTargetKind::LandingPad)),
                (handler, 0) => self.info.targets.push((handler, CodeTargetKind::Cleanup)),
                (filter, target) => {
                    self.info.targets.push((filter, CodeTargetKind::Filter));
                    self.info.targets.push((target, CodeTargetKind::LandingPad));
                }
            }
        }
        Ok(c.rva)
    }

    /// Address of FuncInfo, and the graph there.
    fn func_info(&mut self, data: u32, read: fn(&Image, u32) -> Read<cxx::Graph>) -> Read<u32> {
        let mut c = Cursor::new(self.image, data)?;
        let rva = c.image_relative(&mut self.references)?;
        if !self.graphs.contains_key(&rva) {
            let mut graph = read(self.image, rva)?;
            self.objects.append(&mut graph.objects);
            self.references.append(&mut graph.references);
            self.graphs.insert(rva, graph);
        }
        let graph = &self.graphs[&rva];
        self.info.targets.extend_from_slice(&graph.targets);
        self.info.offsets.extend_from_slice(&graph.offsets);
        Ok(c.rva)
    }

    /// Cookie offset with flags in its low bits, and two more numbers if the frame is aligned.
    fn gs_data(&mut self, data: u32) -> Read<u32> {
        let mut c = Cursor::new(self.image, data)?;
        if c.u32()? & 4 != 0 {
            c.take(8)?;
        }
        Ok(c.rva)
    }
}
