//! Where each address that the patch holds leads in the patched process.
//!
//! Two rules about identity come first. The address of a function that is taken as a value always means the base's
//! entry, so that comparisons and registered callbacks go on to work, while a direct call goes to the patch's own copy
//! where there is one. A variable of the base is always the base's.
//!
//! Then one about doubt. The end of one object is the start of the next, and a linked image does not say which of the
//! two an address stands for. Such an address is accepted only where both readings give the same place after
//! patching, or where the code cannot mean the other one.

use crate::access::{Access, accesses};
use crate::closure::{Closure, Place};
use crate::context::{Context, finding, object_label};
use crate::plan::{Destination, PlannedReference};
use crate::uses::{Use, User};
use crate::verdict::{Finding, Outcome};
use hotgraft_diff::comparison::{Match, Rung};
use hotgraft_program::{Entity, Extent, Form, FunctionId, Object, ObjectId, ObjectKind, RangeKind, Reference, Target};
use rustc_hash::FxHashMap;

/// A `Referrer` match below this score is not evidence enough for a variable or a changed function.
pub const REFERRER_SCORE: f32 = 0.9;

/// A structural match below this score is not evidence enough for a changed function.
pub const STRUCTURE_SCORE: f32 = 0.95;

/// Bytes before an object that an address may lie when its index does not start at 0: one large element.
const BIAS: u32 = 64;

/// What resolving found.
#[derive(Debug, Default)]
pub struct Resolved {
    /// All references, sorted by site.
    pub references: Vec<PlannedReference>,
    /// References that cannot be resolved.
    pub blocks: Vec<Finding>,
    /// Adjacent constants that must be copied together to be safe.
    pub neighbours: Vec<(ObjectId, ObjectId)>,
}

/// Why a reference is not resolved.
enum Doubt {
    /// A refusal.
    Refuse(&'static str, String),
    /// Safe if both constants are copied with their spacing kept.
    Join(ObjectId, ObjectId),
}

/// Resolves all references of a closure.
pub struct Resolver<'a, 'c> {
    ctx: &'a Context<'c>,
    closure: &'a Closure,
    out: Resolved,
    /// How the function at hand uses its addresses.
    accesses: FxHashMap<u32, Access>,
}

impl<'a, 'c> Resolver<'a, 'c> {
    /// A resolver for the closure as it stands.
    pub fn new(ctx: &'a Context<'c>, closure: &'a Closure) -> Self {
        Self { ctx, closure, out: Resolved::default(), accesses: FxHashMap::default() }
    }

    /// Resolves everything.
    pub fn run(mut self) -> Resolved {
        let ctx = self.ctx;
        for &id in self.closure.functions.keys() {
            let f = &ctx.new.functions[id.index()];
            self.accesses = accesses(ctx.new, id);
            for range in &f.ranges {
                for r in ctx.new.references_in(range.rva, range.end()) {
                    self.one(r, User::Function(id), id, false);
                }
            }
            for &u in &f.unwind {
                let Some(info) = ctx.new.unwind.get(u as usize) else { continue };
                for r in &info.references {
                    self.one(r, User::Function(id), id, true);
                }
            }
        }
        for &id in self.closure.objects.keys() {
            let o = &ctx.new.objects[id.index()];
            let owner = match o.kind {
                ObjectKind::JumpTable(owner) => Some(owner),
                _ => None,
            };
            for r in ctx.new.references_in(o.rva, o.end()) {
                match owner {
                    Some(owner) => self.one(r, User::Object(id), owner, true),
                    None => self.one(r, User::Object(id), FunctionId(u32::MAX), o.kind == ObjectKind::Unwind),
                }
            }
        }
        self.out.references.sort_unstable_by_key(|r| r.site);
        self.out.references.dedup_by_key(|r| r.site);
        self.out.neighbours.sort_unstable();
        self.out.neighbours.dedup();
        self.out
    }

    /// `inner`: the field is part of a function's own tables (jump tables, unwind data), where an address of the function
    /// is a place in its code and not its identity.
    fn one(&mut self, r: &Reference, user: User, own: FunctionId, inner: bool) {
        let ctx = self.ctx;
        match self.resolve(r, user, own, inner) {
            Ok(destination) => self.out.references.push(PlannedReference { site: r.site, destination }),
            Err(Doubt::Join(a, z)) => self.out.neighbours.push((a, z)),
            Err(Doubt::Refuse(key, text)) => {
                let (subject, source) = match user {
                    User::Function(id) => {
                        let line = ctx.new.source_line(r.site).map(|l| format!("{}:{}", l.file, l.line));
                        let old = ctx.function_pair(id).0.old;
                        (ctx.function_subject(old, Some(id)), line.or_else(|| ctx.function_source(old, Some(id))))
                    }
                    User::Object(id) => (ctx.object_subject(ctx.cmp.old_object(id), Some(id)), None),
                    User::Nobody => (format!("{:#x}", r.site), None),
                };
                let text = format!("At {:#x} of the new image: {text}", r.site);
                self.out.blocks.push(finding(key, Outcome::Refuse, ctx.about_new(user), subject, &text, source));
            }
        }
    }

    fn resolve(&self, r: &Reference, user: User, own: FunctionId, inner: bool) -> Result<Destination, Doubt> {
        match r.target.entity {
            Entity::Function(id) => self.function(r, id, own, inner),
            Entity::Fragment(id, _) => {
                if id == own
                    || self.is_shared_table(own, inner) && self.closure.functions.contains_key(&id)
                    || (self.closure.functions.contains_key(&id) && r.form == Form::Branch)
                {
                    Ok(Destination::Patch(r.target))
                } else {
                    Err(self.interior(r))
                }
            }
            Entity::Object(id) => self.object(r, user, id),
            Entity::Import(id) => match self.ctx.cmp.import_of_new.get(id.index()).copied().flatten() {
                Some(old) => Ok(Destination::Base(Target { entity: Entity::Import(old), addend: r.target.addend })),
                None if r.target.addend == 0 && !self.ctx.new.imports[id.index()].delayed => {
                    Ok(Destination::NewImport(id))
                }
                None => Err(Doubt::Refuse(
                    "image.import.delayed",
                    format!(
                        "{} is imported on first use, and the base does not import it.",
                        Context::target_label(self.ctx.new, r.target)
                    ),
                )),
            },
            Entity::ImageBase => {
                // The anchor of tables that the patch brings along, or the base image itself.
                let anchors = |id: FunctionId| {
                    let new = self.ctx.new;
                    let holds = |start, end, form| new.references_in(start, end).iter().any(|r| r.form == form);
                    let f = &new.functions[id.index()];
                    f.ranges.iter().any(|range| holds(range.rva, range.end(), Form::ImageRelativeDisplacement))
                        || f.jump_tables.iter().any(|table| {
                            let table = &new.objects[table.object.index()];
                            holds(table.rva, table.end(), Form::ImageRelative)
                        })
                };
                match user {
                    User::Function(id) if r.target.addend == 0 && anchors(id) => Ok(Destination::PatchImageBase),
                    _ if is_local(r.form) => Err(Doubt::Refuse(
                        "code.reference.image_relative",
                        format!(
                            "{} is reached relative to the image base.",
                            Context::target_label(self.ctx.new, r.target)
                        ),
                    )),
                    _ => Ok(Destination::Base(r.target)),
                }
            }
            Entity::Unknown => self.unknown(r, user, own),
        }
    }

    /// True for handler data that a function and its funclets share (FuncInfo and its maps): no function is named as
    /// its owner, and every address of a planned function in it is a place in that function's code.
    fn is_shared_table(&self, own: FunctionId, inner: bool) -> bool {
        inner && own.0 == u32::MAX
    }

    fn interior(&self, r: &Reference) -> Doubt {
        Doubt::Refuse(
            "code.reference.interior",
            format!("{} is the middle of another function.", Context::target_label(self.ctx.new, r.target)),
        )
    }

    fn function(&self, r: &Reference, id: FunctionId, own: FunctionId, inner: bool) -> Result<Destination, Doubt> {
        let ctx = self.ctx;
        let in_patch = self.closure.functions.contains_key(&id);
        if id == own && (inner || r.target.addend != 0) || self.is_shared_table(own, inner) && in_patch {
            return Ok(Destination::Patch(r.target));
        }
        if r.target.addend != 0 {
            return if in_patch && r.form == Form::Branch {
                Ok(Destination::Patch(r.target))
            } else {
                Err(self.interior(r))
            };
        }
        let Some(old) = ctx.counterpart(id) else {
            return if in_patch {
                Ok(Destination::Patch(r.target))
            } else {
                Err(Doubt::Refuse(
                    "code.reference.unknown",
                    String::from("the added function it leads to is not in the patch."),
                ))
            };
        };
        if in_patch && (r.form == Form::Branch || self.closure.direct_only.contains(&id)) {
            return Ok(Destination::Patch(r.target));
        }
        if is_local(r.form) && !inner {
            return Err(Doubt::Refuse(
                "code.reference.image_relative",
                format!(
                    "{} lies in the base and is reached relative to the image base.",
                    Context::target_label(ctx.new, r.target)
                ),
            ));
        }
        Ok(Destination::Base(Target { entity: Entity::Function(old), addend: 0 }))
    }

    fn weak(&self, r: &Reference, matched: Option<Match>) -> Doubt {
        let how = match matched {
            Some(m) => format!("{:?}, score {:.2}", m.by, m.score),
            None => String::from("no evidence"),
        };
        Doubt::Refuse(
            "code.match.ambiguous",
            format!(
                "{} was found in the base on weak evidence ({how}).",
                Context::target_label(self.ctx.new, r.target)
            ),
        )
    }

    /// Where an object and offset are in the patched process.
    fn at(&self, r: &Reference, id: ObjectId, addend: i64) -> Result<Destination, Doubt> {
        let ctx = self.ctx;
        let target = Target { entity: Entity::Object(id), addend };
        match self.closure.place(ctx, id) {
            Place::Patch if self.closure.objects.contains_key(&id) => Ok(Destination::Patch(target)),
            Place::Base(old) => {
                let object = &ctx.new.objects[id.index()];
                let pair = ctx.object_pair(id).0;
                if object.writable && !is_trusted_object(pair.matched) {
                    return Err(self.weak(r, pair.matched));
                }
                if is_local(r.form) {
                    return Err(Doubt::Refuse(
                        "code.reference.image_relative",
                        format!(
                            "{} lies in the base and is reached relative to the image base.",
                            Context::target_label(ctx.new, target)
                        ),
                    ));
                }
                Ok(Destination::Base(Target { entity: Entity::Object(old), addend }))
            }
            Place::Patch | Place::Nowhere => Err(Doubt::Refuse(
                "data.reference.unknown",
                format!(
                    "{} belongs to the image itself and the base has no such thing.",
                    Context::target_label(ctx.new, target)
                ),
            )),
        }
    }

    fn object(&self, r: &Reference, user: User, id: ObjectId) -> Result<Destination, Doubt> {
        let ctx = self.ctx;
        let object = &ctx.new.objects[id.index()];
        let here = self.at(r, id, r.target.addend)?;
        if !has_an_end(object.kind) {
            return Ok(here);
        }
        for (other, addend) in self.other_readings(r, user, id) {
            if let Ok(there) = self.at(r, other, addend)
                && self.same_place(here, there)
            {
                continue;
            }
            if self.may_copy(id) && self.may_copy(other) {
                return Err(Doubt::Join(id.min(other), id.max(other)));
            }
            return Err(self.ambiguous(r, id, other));
        }
        Ok(here)
    }

    /// The other things that an address in, at the start of, or just behind `id` can stand for, as far as the user can
    /// mean them: an object and the offset from its start.
    fn other_readings(&self, r: &Reference, user: User, id: ObjectId) -> Vec<(ObjectId, i64)> {
        let new = self.ctx.new;
        let object = &new.objects[id.index()];
        let (addend, size) = (r.target.addend, i64::from(object.size));
        let mut out = Vec::new();
        // What is read or written lies where its address says.
        if matches!(user, User::Function(_))
            && self.accesses.get(&r.site) == Some(&Access::Direct)
            && (0..size).contains(&addend)
        {
            return out;
        }
        let ends = |id: ObjectId| has_an_end(new.objects[id.index()].kind);
        // The end of what stands before it.
        if addend == 0
            && let Some(before) = id.index().checked_sub(1).map(ObjectId::from)
            && new.objects[before.index()].end() == object.rva
            && ends(before)
            && self.refers_to(user, before, None)
        {
            out.push((before, i64::from(new.objects[before.index()].size)));
        }
        // A place in something else that an out-of-range offset leads to.
        if !(0..=size).contains(&addend)
            && let Some(at) = new.object_at(r.rva)
            && at != id
            && self.refers_to(user, at, None)
        {
            out.push((at, i64::from(r.rva - new.objects[at.index()].rva)));
        }
        // A place before what follows: an array whose index does not start at 0.
        let after = ObjectId::from(id.index() + 1);
        if let Some(next) = new.objects.get(after.index())
            && ends(after)
            && next.writable == object.writable
            && next.rva.checked_sub(r.rva).is_some_and(|bias| bias <= BIAS)
            && !self.refers_to(user, id, Some(r))
            && (self.refers_to(user, after, None) || is_artefact(object) && self.has_no_other_user(id, user))
        {
            out.push((after, i64::from(r.rva) - i64::from(next.rva)));
        }
        out
    }

    /// True if nothing but this user refers to the object.
    fn has_no_other_user(&self, id: ObjectId, user: User) -> bool {
        self.ctx.new_uses.of_object(id).iter().all(|u| u.user == user)
    }

    fn ambiguous(&self, r: &Reference, id: ObjectId, other: ObjectId) -> Doubt {
        let new = self.ctx.new;
        Doubt::Refuse(
            "code.reference.ambiguous",
            format!(
                "the address {:#x} can mean {} or a place next to {}, which are apart after patching.",
                r.rva,
                Context::target_label(new, Target { entity: Entity::Object(id), addend: r.target.addend }),
                object_label(new, other)
            ),
        )
    }

    /// True if both destinations are the same address, whatever the load addresses.
    fn same_place(&self, a: Destination, b: Destination) -> bool {
        match (a, b) {
            (Destination::Base(a), Destination::Base(b)) => self.ctx.old.rva_of(a) == self.ctx.old.rva_of(b),
            (Destination::Patch(a), Destination::Patch(b)) => {
                let (Entity::Object(x), Entity::Object(y)) = (a.entity, b.entity) else { return false };
                self.closure.groups.iter().any(|g| g.contains(&x) && g.contains(&y))
                    && self.ctx.new.rva_of(a) == self.ctx.new.rva_of(b)
            }
            _ => false,
        }
    }

    /// True if a copy changes nothing but the address: already copied, or a constant whose address has no meaning.
    fn may_copy(&self, id: ObjectId) -> bool {
        let o = &self.ctx.new.objects[id.index()];
        if self.closure.objects.contains_key(&id) {
            return true;
        }
        !o.writable
            && match o.kind {
                ObjectKind::String | ObjectKind::WideString => true,
                // Unnamed constants are literals.
                ObjectKind::Data => o.name.is_none() && o.decorated.is_none(),
                _ => false,
            }
    }

    /// True if the user, or its old counterpart, holds any address that leads into the object, beside `but`.
    fn refers_to(&self, user: User, id: ObjectId, but: Option<&Reference>) -> bool {
        let ctx = self.ctx;
        let other = |u: &Use| but.is_none_or(|but| ctx.new.references[u.reference as usize].site != but.site);
        if ctx.new_uses.of_object(id).iter().any(|u| u.user == user && other(u)) {
            return true;
        }
        let Some(old) = ctx.cmp.old_object(id) else { return false };
        let counterpart = match user {
            User::Function(f) => ctx.function_pair(f).0.old.map(User::Function),
            User::Object(o) => ctx.cmp.old_object(o).map(User::Object),
            User::Nobody => None,
        };
        counterpart.is_some_and(|user| ctx.old_uses.of_object(old).iter().any(|u| u.user == user))
    }

    /// An address in no known thing: the end of something the user refers to, or unknown.
    fn unknown(&self, r: &Reference, user: User, own: FunctionId) -> Result<Destination, Doubt> {
        let ctx = self.ctx;
        if own.0 != u32::MAX {
            let f = &ctx.new.functions[own.index()];
            // Ends of protected ranges in scope tables.
            if let Some(n) = f.ranges.iter().position(|range| range.end() == r.rva) {
                let entity = match f.ranges[n].kind {
                    RangeKind::Entry => Entity::Function(own),
                    _ => Entity::Fragment(own, u16::try_from(n).unwrap_or(u16::MAX)),
                };
                if is_local(r.form) {
                    return Ok(Destination::Patch(Target { entity, addend: i64::from(f.ranges[n].size) }));
                }
            }
        }
        let i = ctx.new.objects.partition_point(|o| o.end() <= r.rva);
        if let Some(before) = i.checked_sub(1).map(ObjectId::from)
            && ctx.new.objects[before.index()].end() == r.rva
            && has_an_end(ctx.new.objects[before.index()].kind)
            && self.refers_to(user, before, None)
        {
            let size = i64::from(ctx.new.objects[before.index()].size);
            let here = self.at(r, before, size)?;
            // It could be a place before the next object, too.
            let after = ObjectId::from(i);
            if i >= ctx.new.objects.len() || !self.refers_to(user, after, None) {
                return Ok(here);
            }
            let there = self.at(r, after, i64::from(r.rva) - i64::from(ctx.new.objects[i].rva))?;
            if self.same_place(here, there) {
                return Ok(here);
            }
            if self.may_copy(before) && self.may_copy(after) {
                return Err(Doubt::Join(before, after));
            }
            return Err(self.ambiguous(r, before, after));
        }
        let key = match user {
            User::Function(_) => "code.reference.unknown",
            _ => "data.reference.unknown",
        };
        Err(Doubt::Refuse(key, format!("the address {:#x} leads to nothing that is known.", r.rva)))
    }
}

/// Forms whose value is relative to the image that holds them.
pub fn is_local(form: Form) -> bool {
    matches!(form, Form::ImageRelative | Form::ImageRelativeDisplacement)
}

/// Kinds of objects whose end code may compute.
fn has_an_end(kind: ObjectKind) -> bool {
    matches!(
        kind,
        ObjectKind::Data
            | ObjectKind::String
            | ObjectKind::WideString
            | ObjectKind::InitializerTable
            | ObjectKind::PseudoRelocations
            | ObjectKind::TlsTemplate
    )
}

/// True if the object may exist for no other reason than that an address was seen to lead there.
fn is_artefact(object: &Object) -> bool {
    object.kind == ObjectKind::Data
        && object.name.is_none()
        && object.decorated.is_none()
        && object.extent == Extent::Boundary
}

/// True if a match is good enough to use a variable of the base.
pub fn is_trusted_object(matched: Option<Match>) -> bool {
    matched.is_some_and(|m| match m.by {
        Rung::NameAndModule | Rung::Name | Rung::CanonicalName | Rung::Anchor => true,
        Rung::Referrer => m.score >= REFERRER_SCORE,
        _ => false,
    })
}

/// True if a match is good enough to redirect an old function to a new one that differs.
pub fn is_trusted_function(matched: Option<Match>) -> bool {
    matched.is_some_and(|m| match m.by {
        Rung::NameAndModule | Rung::Name | Rung::CanonicalName | Rung::Anchor | Rung::ExactBody => true,
        Rung::Referrer => m.score >= REFERRER_SCORE,
        Rung::NamedReferences | Rung::CallGraph | Rung::FlowGraph | Rung::Similarity => m.score >= STRUCTURE_SCORE,
        Rung::Content => false,
    })
}
