//! From entries and facts to functions.

use super::{Finder, Seed, range_index};
use crate::assemble::names::Names;
use crate::assemble::{Conflict, Found, Table};
use crate::code::{self, Access, CodeFacts, CodeSpanKind};
use crate::entity::{FunctionId, ModuleId};
use crate::function::{CodeRange, EntryKind, Function, Linkage, Problem};
use crate::unwind::UnwindTable;
use rayon::prelude::*;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;

impl Finder<'_> {
    /// Makes functions of what was found, and collects the tables that they read.
    pub(super) fn finish(
        self,
        known: BTreeMap<u32, (Vec<CodeRange>, Vec<CodeFacts>)>,
        unwind: &UnwindTable,
        names: &Names<'_>,
        conflicts: &mut Vec<Conflict>,
    ) -> Found {
        let mut functions = Vec::with_capacity(known.len());
        let mut all_facts = Vec::with_capacity(known.len());
        let mut tables: Vec<Table> = Vec::new();
        for (entry, (mut ranges, facts)) in known {
            let seed = &self.seeds[&entry];
            if self.exact_at(entry).is_none_or(|e| e.0 != entry) {
                trim(&mut ranges[0], &facts[0]);
            }
            if ranges[0].size == 0 {
                continue;
            }
            let id = FunctionId::from(functions.len());
            let mut problems: Vec<Problem> = facts.iter().flat_map(|f| &f.problems).cloned().collect();
            problems.retain(|p| ranges.iter().any(|r| r.contains(p.rva)));
            self.tables_of(id, &facts, &mut problems, &mut tables, conflicts);
            functions.push(self.function(entry, seed, ranges, problems, names));
            all_facts.push(facts);
        }
        for problem in &unwind.problems {
            let i = functions.partition_point(|f: &Function| f.rva() <= problem.rva);
            if let Some(f) = i.checked_sub(1).map(|i| &mut functions[i])
                && f.ranges[0].contains(problem.rva)
            {
                f.problems.push(problem.clone());
            }
        }
        self.told_tables(&mut functions, &mut tables);
        tables.sort_by_key(|t| (t.rva, t.jump.is_none(), t.function, t.jump));
        let mut accesses: Vec<Access> = all_facts
            .par_iter()
            .flat_map_iter(|facts: &Vec<CodeFacts>| facts.iter().flat_map(|f| f.accesses.iter().copied()))
            .collect();
        accesses.par_sort_unstable();
        accesses.dedup();
        Found { functions, facts: all_facts, tables, accesses }
    }

    /// Jump tables and lookup tables of one function. Where code does not prove the number of entries, the compiler's
    /// own record does.
    fn tables_of(
        &self,
        function: FunctionId,
        facts: &[CodeFacts],
        problems: &mut Vec<Problem>,
        tables: &mut Vec<Table>,
        conflicts: &mut Vec<Conflict>,
    ) {
        for jump in facts.iter().flat_map(|f| &f.jump_tables) {
            let mut jump = jump.clone();
            let i = self.pdb.switch_tables.partition_point(|s| s.table < jump.table);
            let told = self.pdb.switch_tables[i..].iter().take_while(|s| s.table == jump.table);
            if let Some(told) = told.filter(|s| s.width == jump.width).max_by_key(|s| s.entries) {
                if jump.bound_proven && jump.entries > told.entries {
                    let text = format!(
                        "code reads {} entries of the jump table at {:#x}, the PDB has {}",
                        jump.entries, jump.table, told.entries
                    );
                    conflicts.push((jump.table, text));
                } else {
                    jump.entries = told.entries;
                    if !jump.bound_proven {
                        jump.bound_proven = true;
                        problems.retain(|p| !(p.rva == jump.jump && p.key == "code.jump_table.unbounded"));
                    }
                }
            }
            tables.push(Table {
                rva: jump.table,
                entries: jump.entries,
                width: jump.width,
                function,
                jump: Some(jump.jump),
                proven: jump.bound_proven,
                references: jump.references(self.image).collect(),
            });
        }
        for table in facts.iter().flat_map(|f| &f.offset_tables) {
            tables.push(Table {
                rva: table.table,
                entries: table.entries,
                width: table.width,
                function,
                jump: None,
                proven: table.bound_proven,
                references: table.references(self.image).collect(),
            });
        }
    }

    /// Jump tables that the compiler described and the reading of code did not find. Entries that are shifted before
    /// they are added do not hold addresses in a form that a reference can have; those jumps stay problems.
    fn told_tables(&self, functions: &mut [Function], tables: &mut Vec<Table>) {
        let known: FxHashSet<(u32, Option<u32>)> = tables.iter().map(|t| (t.rva, t.jump)).collect();
        let index = range_index(functions);
        for told in &self.pdb.switch_tables {
            if known.contains(&(told.table, Some(told.jump))) || told.shift != 0 || told.width < 4 {
                continue;
            }
            let Some(i) = index.partition_point(|r| r.0 <= told.jump).checked_sub(1) else { continue };
            let function = &mut functions[index[i].1.index()];
            if !function.ranges[usize::from(index[i].2)].contains(told.jump) {
                continue;
            }
            let raw = code::RawJumpTable {
                table: told.table,
                jump: told.jump,
                entries: told.entries.min(self.image.size_of_image / u32::from(told.width)),
                width: told.width,
                form: told.form(),
                anchor: if told.absolute { 0 } else { told.base },
                bound_proven: true,
            };
            let references: Vec<_> = raw.references(self.image).collect();
            if references.len() != raw.entries as usize {
                continue;
            }
            function.problems.retain(|p| !(p.rva == told.jump && p.key.starts_with("code.indirect_jump")));
            tables.push(Table {
                rva: raw.table,
                entries: raw.entries,
                width: raw.width,
                function: index[i].1,
                jump: Some(raw.jump),
                proven: true,
                references,
            });
        }
    }

    fn function(
        &self,
        entry: u32,
        seed: &Seed,
        ranges: Vec<CodeRange>,
        problems: Vec<Problem>,
        names: &Names<'_>,
    ) -> Function {
        let procedures = seed.procedures.map_or(&[][..], |(at, count)| &self.pdb.procedures[at..at + count]);
        // Of several procedures at one entry the choice must be the same in every build: real ones before thunks,
        // global before local, then by name.
        let main = procedures.iter().min_by_key(|p| (p.name.is_empty(), p.thunk, !p.global, &p.name));
        let publics = names.publics(entry);
        let name = main.filter(|p| !p.name.is_empty()).map(|p| p.name.clone());
        let decorated = match &name {
            Some(name) => publics
                .iter()
                .find(|p| *p == name)
                .or_else(|| publics.iter().find(|p| p.contains(name.rsplit("::").next().unwrap_or(name))))
                .or_else(|| publics.first()),
            None => publics.first(),
        };
        let decorated = decorated.map(|&d| d.to_owned());
        let exports = names.exports(entry);
        let name = name.or_else(|| decorated.clone()).or_else(|| exports.first().map(|&e| e.to_owned()));
        let mut aliases: Vec<String> = procedures
            .iter()
            .map(|p| p.name.as_str())
            .chain(publics.iter().copied())
            .chain(exports.iter().copied())
            .filter(|n| !n.is_empty() && Some(*n) != name.as_deref() && Some(*n) != decorated.as_deref())
            .map(str::to_owned)
            .collect();
        aliases.sort_unstable();
        aliases.dedup();
        let contribution = || {
            let i = self.pdb.contributions.partition_point(|c| c.rva <= entry).checked_sub(1)?;
            let c = &self.pdb.contributions[i];
            c.module.filter(|_| entry < c.rva + c.size)
        };
        let mut udts: Vec<_> = procedures.iter().flat_map(|p| &p.udts).copied().collect();
        udts.sort_unstable();
        udts.dedup();
        let linkage = match main {
            Some(p) if !p.thunk => {
                if p.global {
                    Linkage::Global
                } else {
                    Linkage::Local
                }
            }
            _ if !publics.is_empty() => Linkage::Global,
            _ => Linkage::Unknown,
        };
        let module = main.filter(|p| !p.thunk).map(|p| p.module).or_else(contribution);
        let marked = |known: &str| {
            let same = |one: &(ModuleId, String)| Some(one.0) == module && one.1 == known;
            self.pdb.hotpatched.iter().any(same)
        };
        let hotpatched = !self.pdb.hotpatched.is_empty()
            && (decorated.iter().chain(&aliases).any(|known| marked(known)) || main.is_some_and(|p| marked(&p.name)));
        Function {
            name,
            decorated,
            aliases,
            ranges,
            module,
            linkage,
            evidence: seed.evidence,
            prototype: main.and_then(|p| p.prototype.clone()),
            udts,
            inlined: main.map(|p| p.inlined.clone()).unwrap_or_default(),
            unwind: Vec::new(),
            funclet_of: Vec::new(),
            jump_tables: Vec::new(),
            no_return: procedures.iter().any(|p| p.no_return),
            hotpatched,
            entry_kind: EntryKind::None,
            problems,
        }
    }
}

/// Cuts what follows the code of a function whose end is not known.
fn trim(range: &mut CodeRange, facts: &CodeFacts) {
    for span in facts.spans.iter().rev() {
        if matches!(span.kind, CodeSpanKind::Padding | CodeSpanKind::Unknown) && span.rva + span.size == range.end() {
            range.size -= span.size;
        } else {
            break;
        }
    }
}
