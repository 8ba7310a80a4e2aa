//! The worklist of the bisimulation and the relation between addresses.

use crate::reencoded::Places;
use crate::world::{Place, World};
use crate::{Remaining, Residual, code, data};
use hotgraft_diff::Comparison;
use hotgraft_program::{
    CodeRange, Entity, Evidence, ExportTarget, Form, Function, FunctionId, ImportName, ObjectId, ObjectKind, Program,
    Target,
};
use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// A pair that is assumed related and must be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Pair {
    /// Code at an address against a range of a new function.
    Range { va: u64, function: FunctionId, range: u16 },
    /// Data at an address against a new object.
    Object { va: u64, object: ObjectId },
}

/// What comparing one pair gave.
#[derive(Default)]
pub(crate) struct Found {
    pub remaining: Vec<Remaining>,
    pub pairs: Vec<Pair>,
    /// Do not ask where the instructions of other ranges are; set while that is being found out.
    pub shallow: bool,
}

impl Found {
    pub(crate) fn remain(&mut self, key: &'static str, subject: String, new_rva: u32, text: String) {
        self.remaining.push(Remaining { key, subject, new_rva, text });
    }
}

/// Places by address of the code, function and range; `None` for a plain copy.
type KnownPlaces = FxHashMap<(u64, FunctionId, u16), Option<Arc<Places>>>;

/// Everything that the comparison of a pair reads.
pub(crate) struct Context<'a> {
    pub world: &'a World<'a>,
    pub new: &'a Program,
    pub comparison: &'a Comparison,
    /// Where the instructions of re-encoded ranges are, found once: every entry of a jump table asks for it.
    pub places: Mutex<KnownPlaces>,
}

/// Compare the patched world with the new image. The pairs are all that were compared.
pub(crate) fn walk(world: &World<'_>, new: &Program, comparison: &Comparison) -> (Residual, FxHashSet<Pair>) {
    let context = Context { world, new, comparison, places: Mutex::default() };
    let mut residual = Residual::default();
    let mut seen = FxHashSet::default();
    let mut frontier = Vec::new();
    let mut entries = FxHashMap::default();
    for pair in &comparison.functions {
        let (Some(old), Some(id)) = (pair.old, pair.new) else { continue };
        let entry = world.base.address + u64::from(world.old.functions[old.index()].rva());
        let va = world.follow_redirect(entry);
        residual.redirected += usize::from(va != entry);
        entries.insert(va, (old, va != entry));
        frontier.push(Pair::Range { va, function: id, range: 0 });
    }
    for pair in &comparison.objects {
        let (Some(old), Some(id)) = (pair.old, pair.new) else { continue };
        if new.objects[id.index()].writable {
            frontier.push(Pair::Object {
                va: world.base.address + u64::from(world.old.objects[old.index()].rva),
                object: id,
            });
        }
    }
    let mut left = Vec::new();
    let mut copied = FxHashSet::default();
    while !frontier.is_empty() {
        frontier.retain(|pair| seen.insert(*pair));
        let found: Vec<Found> = frontier
            .par_iter()
            .map(|pair| match *pair {
                Pair::Range { va, function, range } => code::compare(&context, va, function, range),
                Pair::Object { va, object } => data::compare(&context, va, object),
            })
            .collect();
        let mut next = Vec::new();
        for (pair, one) in frontier.iter().zip(found) {
            next.extend(one.pairs);
            match *pair {
                Pair::Range { va, function, range } => {
                    residual.ranges += 1;
                    let in_base = matches!(world.place(va), Place::Base(_));
                    if !in_base && range == 0 && one.remaining.is_empty() {
                        copied.insert(function);
                    }
                    if let Some((old, false)) =
                        entries.get(&va).filter(|_| in_base && range == 0 && !one.remaining.is_empty())
                    {
                        left.push((*old, function, one.remaining));
                        continue;
                    }
                }
                Pair::Object { .. } => residual.objects += 1,
            }
            residual.remaining.extend(one.remaining);
        }
        frontier = next;
    }
    // Old code that was left as it is, although it differs, does no harm if nobody can come to it any more.
    if !left.is_empty() {
        let unused = (Unused::new(world.old), Unused::new(new));
        left.retain(|l| !(unused.0.contains(world.old, l.0) && unused.1.contains(new, l.1)));
        let redirected: FxHashSet<FunctionId> = entries.values().filter(|e| e.1).map(|e| e.0).collect();
        // Equal funclets count as well: nobody comes to them but their owners and, through shared maps, each other.
        let funclets = world.old.functions.iter().enumerate().filter(|(_, f)| !f.funclet_of.is_empty());
        let candidates: Vec<FunctionId> = left
            .iter()
            .filter(|l| copied.contains(&l.1))
            .map(|l| l.0)
            .chain(funclets.map(|(i, _)| FunctionId::from(i)))
            .filter(|id| left.iter().all(|l| l.0 != *id || copied.contains(&l.1)))
            .collect();
        let retired = retired(world.old, &redirected, candidates);
        for (old, _, remaining) in left {
            if !retired.contains(&old) {
                residual.remaining.extend(remaining);
            }
        }
    }
    residual.remaining.sort();
    residual.remaining.dedup();
    (residual, seen)
}

/// Those of `candidates` (old functions) that only redirected functions and each other refer to: nothing calls them once every
/// caller runs in the patch, where the calls lead to the copies.
fn retired(old: &Program, redirected: &FxHashSet<FunctionId>, candidates: Vec<FunctionId>) -> FxHashSet<FunctionId> {
    let outside = Evidence::EXPORT | Evidence::ENTRY_POINT | Evidence::GUARD_TABLE;
    let mut retired: FxHashSet<FunctionId> =
        candidates.into_iter().filter(|f| !old.functions[f.index()].evidence.intersects(outside)).collect();
    let exported: FxHashSet<u32> = old
        .exports
        .iter()
        .filter_map(|e| if let ExportTarget::Rva(rva) = e.target { Some(rva) } else { None })
        .collect();
    retired.retain(|f| !exported.contains(&old.functions[f.index()].rva()));
    // Whose unwind data leads to each of them: frames of these may still need it.
    let mut unwound: FxHashMap<FunctionId, Vec<FunctionId>> = FxHashMap::default();
    for i in 0..old.functions.len() {
        let user = FunctionId::from(i);
        for named in old.named_by_unwind(user).into_iter().filter(|named| retired.contains(named)) {
            unwound.entry(named).or_default().push(user);
        }
    }
    loop {
        let mut kept = FxHashSet::default();
        for (&to, users) in unwound.iter().filter(|(to, _)| retired.contains(to)) {
            if !users.iter().all(|from| redirected.contains(from) || retired.contains(from)) {
                kept.insert(to);
            }
        }
        for reference in &old.references {
            let (Entity::Function(to) | Entity::Fragment(to, _)) = reference.target.entity else { continue };
            if !retired.contains(&to) {
                continue;
            }
            let harmless = match old.function_at(reference.site) {
                Some((from, _)) => from == to || redirected.contains(&from) || retired.contains(&from),
                // The unwinder's table names every function, its data is looked at above; jump tables name only their own.
                None => old.object_at(reference.site).is_some_and(|o| match old.objects[o.index()].kind {
                    ObjectKind::RuntimeFunctions | ObjectKind::Unwind | ObjectKind::Debug => true,
                    ObjectKind::JumpTable(owner) => owner == to,
                    _ => false,
                }),
            };
            if !harmless {
                kept.insert(to);
            }
        }
        if kept.is_empty() {
            return retired;
        }
        retired.retain(|f| !kept.contains(f));
    }
}

/// Which functions something leads to: code of others, data, handlers' data.
struct Unused {
    led_to: FxHashSet<FunctionId>,
}

impl Unused {
    fn new(program: &Program) -> Self {
        let led = program.references.iter().filter_map(|r| match r.target.entity {
            Entity::Function(to) | Entity::Fragment(to, _) => {
                let own = program.function_at(r.site).is_some_and(|(from, _)| from == to);
                let table = program.object_at(r.site).is_some_and(|o| is_structural(program.objects[o.index()].kind));
                (!own && !table).then_some(to)
            }
            _ => None,
        });
        Self { led_to: led.collect() }
    }

    /// True for a part of another function, by its name, that nothing leads to.
    fn contains(&self, program: &Program, id: FunctionId) -> bool {
        let outside = Evidence::EXPORT | Evidence::ENTRY_POINT | Evidence::GUARD_TABLE;
        let f = &program.functions[id.index()];
        f.is_named_as_funclet() && !f.evidence.intersects(outside) && !self.led_to.contains(&id)
    }
}

impl Context<'_> {
    pub(crate) fn function(&self, id: FunctionId) -> &Function {
        &self.new.functions[id.index()]
    }

    pub(crate) fn range(&self, id: FunctionId, range: u16) -> CodeRange {
        self.function(id).ranges[usize::from(range)]
    }

    /// Demand that the address `va` in patched memory is what `target` is in the new image; `Err` says why not.
    pub(crate) fn relate(&self, va: u64, target: Target, form: Form, found: &mut Found) -> Result<(), String> {
        match target.entity {
            Entity::Function(id) => self.relate_code(va, id, 0, target.addend, form, found),
            Entity::Fragment(id, range) => self.relate_code(va, id, range, target.addend, form, found),
            Entity::Object(id) => self.relate_object(va, id, target.addend, form, found),
            Entity::Import(id) => {
                let import = &self.new.imports[id.index()];
                self.relate_import(va, target.addend, (&import.dll, &import.name, import.delayed), id)
            }
            Entity::ImageBase => {
                let home = match self.world.place(va) {
                    Place::Base(rva) => Some(rva),
                    // Tables that are relative to the image are re-emitted relative to the patch.
                    Place::Patch(rva) if form == Form::RipRelative => Some(rva),
                    _ => None,
                };
                match home {
                    Some(rva) if i64::from(rva) == target.addend => Ok(()),
                    _ => Err(format!("{va:#x} is not the image base plus {:#x}", target.addend)),
                }
            }
            Entity::Unknown => Err(format!("the new image refers to RVA {:#x}, which is nothing known", target.addend)),
        }
    }

    /// As [`relate`](Self::relate), for what the unwinder or the C++ run-time calls: not a function's identity, and in the
    /// image that names it, so that a thunk of the patch may lead to it.
    pub(crate) fn relate_called(&self, va: u64, target: Target, form: Form, found: &mut Found) -> Result<(), String> {
        if !matches!(target.entity, Entity::Function(_) | Entity::Fragment(..)) {
            return self.relate(va, target, form, found);
        }
        let direct = self.relate(va, target, form, &mut Found::default());
        let va = if direct.is_ok() { va } else { self.world.follow_thunk(va) };
        self.relate(va, target, Form::Branch, found)
    }

    fn relate_code(
        &self,
        va: u64,
        id: FunctionId,
        range: u16,
        addend: i64,
        form: Form,
        found: &mut Found,
    ) -> Result<(), String> {
        let home = va.wrapping_add_signed(-addend);
        let name = self.label(id);
        if range == 0 && addend == 0 {
            let old = self.comparison.old_function(id);
            return match self.world.place(va) {
                Place::Base(rva) => match self.world.old.function_entry(rva) {
                    // The pair of entries is a root of the walk.
                    Some(at) if old == Some(at) => Ok(()),
                    _ => Err(format!("base RVA {rva:#x} is not the entry of {name}")),
                },
                Place::Patch(rva) => {
                    if old.is_some() && form != Form::Branch {
                        return Err(format!(
                            "the address of {name} is taken as patch RVA {rva:#x}, but its identity is its entry in the base"
                        ));
                    }
                    found.pairs.push(Pair::Range { va, function: id, range });
                    Ok(())
                }
                Place::Outside => Err(format!("{va:#x} lies in neither image, expected {name}")),
            };
        }
        let inside = || format!("{va:#x} is not {name}{addend:+#x}");
        match self.world.place(va) {
            Place::Outside => Err(inside()),
            Place::Base(_) => {
                found.pairs.push(Pair::Range { va: home, function: id, range });
                Ok(())
            }
            Place::Patch(rva) => {
                // Code that was taken as it is starts where the offset says; else the unwind table knows.
                let home = if code::is_plain_copy(self, home, id, range) {
                    home
                } else {
                    self.home(rva).map_or(home, |start| va - u64::from(rva - start))
                };
                found.pairs.push(Pair::Range { va: home, function: id, range });
                if found.shallow {
                    return Ok(());
                }
                // Code that was not copied as it is has its places elsewhere.
                let offset = u32::try_from(addend).map_err(|_| inside())?;
                let seen = va - home;
                let moved = match self.places(home, id, range) {
                    Some(places) => crate::reencoded::find(&places, offset),
                    None => Some(offset),
                };
                if moved.map(u64::from) == Some(seen) { Ok(()) } else { Err(inside()) }
            }
        }
    }

    fn places(&self, home: u64, id: FunctionId, range: u16) -> Option<Arc<Places>> {
        let key = (home, id, range);
        let known = || self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = known().get(&key) {
            return places.clone();
        }
        // Found without the lock: two threads may do it at once, and find the same.
        let places = code::places(self, home, id, range).map(Arc::new);
        known().insert(key, places.clone());
        places
    }

    /// Start of the piece of the patch's code that an RVA lies in, from the patch's unwind table.
    fn home(&self, rva: u32) -> Option<u32> {
        let (_, patch) = self.world.patch.as_ref()?;
        let i = patch.unwind.partition_point(|u| u.begin <= rva).checked_sub(1)?;
        let entry = &patch.unwind[i];
        (rva <= entry.end).then_some(entry.begin)
    }

    fn relate_object(&self, va: u64, id: ObjectId, addend: i64, form: Form, found: &mut Found) -> Result<(), String> {
        let object = &self.new.objects[id.index()];
        let home = va.wrapping_add_signed(-addend);
        let old = self.comparison.old_object(id);
        let label = || object.name.clone().unwrap_or_else(|| format!("data at new RVA {:#x}", object.rva));
        let counterpart = old.map(|o| self.world.base.address + u64::from(self.world.old.objects[o.index()].rva));
        // Type descriptors are compared by the name in them, and what names one by its image-relative address can name only
        // one of its own image.
        let by_name = object.kind == ObjectKind::Rtti && form == Form::ImageRelative;
        if object.writable && !by_name || is_structural(object.kind) {
            // Identity: there is one such object in the process, and where the base has it, it is the base's.
            return match counterpart {
                Some(at) if at == home => Ok(()),
                Some(at) => Err(format!("{} is referred to at {home:#x}, but the base has it at {at:#x}", label())),
                None if matches!(self.world.place(home), Place::Patch(_)) && !is_structural(object.kind) => {
                    found.pairs.push(Pair::Object { va: home, object: id });
                    Ok(())
                }
                None => Err(format!("{} is new, but is referred to outside of the patch at {home:#x}", label())),
            };
        }
        if object.is_throw_info() && matches!(self.world.place(home), Place::Patch(_)) {
            return Err(format!("{} is in the patch, where the C++ run-time does not find its image", label()));
        }
        if self.world.bytes(home, object.size).is_none() {
            return Err(format!("{} at {home:#x} lies outside of both images", label()));
        }
        found.pairs.push(Pair::Object { va: home, object: id });
        Ok(())
    }

    fn relate_import(
        &self,
        va: u64,
        addend: i64,
        wanted: (&str, &ImportName, bool),
        id: hotgraft_program::ImportId,
    ) -> Result<(), String> {
        let (dll, name, _) = wanted;
        let slot = va.wrapping_add_signed(-addend);
        let same = |program: &Program, rva: u32| {
            program
                .imports
                .binary_search_by_key(&rva, |i| i.slot)
                .is_ok_and(|i| program.imports[i].dll.eq_ignore_ascii_case(dll) && program.imports[i].name == *name)
        };
        match self.world.program_at(slot) {
            Some((program, rva)) if same(program, rva) => Ok(()),
            Some(_) => {
                // A slot of the patch that the engine fills with what the base's own slot holds.
                let base = self.comparison.import_of_new[id.index()]
                    .map(|i| self.world.base.address + u64::from(self.world.old.imports[i.index()].slot));
                let same_value =
                    base.is_some_and(|b| self.world.u64(b).is_some() && self.world.u64(b) == self.world.u64(slot));
                if same_value { Ok(()) } else { Err(format!("{slot:#x} is not a slot of {dll}!{name}")) }
            }
            None => Err(format!("{slot:#x} lies outside of both images, expected a slot of {dll}!{name}")),
        }
    }

    /// Name of a new function.
    pub(crate) fn label(&self, id: FunctionId) -> String {
        hotgraft_diff::comparison::function_label(self.new, id)
    }
}

/// Objects that the loader reads by its own rules; they are compared through their meaning, never as bytes.
pub(crate) fn is_structural(kind: ObjectKind) -> bool {
    matches!(
        kind,
        ObjectKind::RuntimeFunctions
            | ObjectKind::ImportTable
            | ObjectKind::ImportAddressTable
            | ObjectKind::ExportTable
            | ObjectKind::TlsDirectory
            | ObjectKind::LoadConfig
            | ObjectKind::Debug
            | ObjectKind::Resource
            | ObjectKind::BaseRelocations
    )
}
