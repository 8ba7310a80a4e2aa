//! What a patch must contain: the changed functions and everything of the new image that they cannot do without.
//!
//! Start with the functions whose code differs. Whatever they reach that the base has not is added; a changed constant
//! brings in every function that reads it; a function whose old entry cannot be redirected brings in its callers. A
//! function that is equal in both images is never taken without one of these reasons, and the reason is kept.

mod constants;
mod entries;

use crate::context::{Context, finding, object_label};
use crate::plan::PlannedReference;
use crate::resolve::Resolver;
use crate::rules::functions;
use crate::uses::{User, is_address_taken};
use crate::verdict::{Difference, Finding, Outcome};
use hotgraft_diff::comparison::{Status, function_label};
use hotgraft_program::{Entity, Form, FunctionId, ImportId, Linkage, ObjectId, ObjectKind, Reference};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Why something is in the patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its code or contents differ.
    Changed,
    /// The base has not got it, and the named user needs it.
    Needed(String),
    /// It reads the named constant, whose contents changed.
    Reads(String),
    /// It calls the named function, whose old entry stays as it is.
    Calls(String),
    /// It and the named function run on one frame.
    Frame(String),
    /// It refers to the named function, of which the base has no certain counterpart.
    Retargeted(String),
    /// It holds the address of the named constant, which is copied.
    Holds(String),
    /// An address can mean the end of one and the start of the other, so both are taken.
    Neighbour(String),
}

/// Functions, objects and imports of the patch, and how each of their references is resolved.
#[derive(Debug, Default)]
pub struct Closure {
    /// Functions of the new image.
    pub functions: BTreeMap<FunctionId, Why>,
    /// Those of them that replace a base function without a redirect: all callers are in the closure as well.
    pub direct_only: BTreeSet<FunctionId>,
    /// Those of them whose calling contract changed without a change of their type, and how.
    pub drifts: BTreeMap<FunctionId, String>,
    /// Objects of the new image that are copied, or new variables.
    pub objects: BTreeMap<ObjectId, Why>,
    /// Objects that keep their spacing.
    pub groups: Vec<BTreeSet<ObjectId>>,
    /// Imports of the new image that the base has not.
    pub imports: BTreeSet<ImportId>,
    /// All references, sorted by site.
    pub references: Vec<PlannedReference>,
    /// What stands against it.
    pub blocks: Vec<Finding>,
}

/// How an object of the new image is had in the patched process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The base's own.
    Base(ObjectId),
    /// A private copy, or a new variable in the patch.
    Patch,
    /// Not to be had: it belongs to the image itself and the base has no such thing.
    Nowhere,
}

/// True for data that the linker or compiler derives from other things that are compared by themselves.
pub fn is_derived(kind: ObjectKind) -> bool {
    matches!(
        kind,
        ObjectKind::RuntimeFunctions
            | ObjectKind::ImportTable
            | ObjectKind::ImportAddressTable
            | ObjectKind::ExportTable
            | ObjectKind::LoadConfig
            | ObjectKind::Debug
            | ObjectKind::Resource
            | ObjectKind::BaseRelocations
            | ObjectKind::TlsDirectory
            | ObjectKind::TlsTemplate
            | ObjectKind::InitializerTable
            | ObjectKind::PseudoRelocations
    )
}

impl Closure {
    /// Computes the closure over all differences.
    pub fn of(ctx: &Context) -> Self {
        let mut b = Builder { ctx, out: Self::default(), functions: Vec::new(), objects: Vec::new() };
        for pair in &ctx.cmp.functions {
            if let (Status::Changed, Some(new)) = (pair.status, pair.new) {
                if functions::is_unused_funclet(ctx, pair) {
                    continue;
                }
                match ctx.counterpart(new) {
                    Some(_) => b.add_function(new, Why::Changed),
                    None => b.retarget(new),
                }
            }
        }
        for pair in &ctx.cmp.objects {
            if let (Status::Changed, Some(_), Some(new)) = (pair.status, pair.old, pair.new) {
                b.changed_object(new);
            }
        }
        b.run();
        loop {
            let found = Resolver::new(ctx, &b.out).run();
            if found.neighbours.is_empty() {
                b.out.references = found.references;
                b.out.blocks.extend(found.blocks);
                break;
            }
            let before = (b.out.objects.len(), b.out.groups.clone());
            for (a, z) in found.neighbours {
                b.join(a, z);
            }
            b.run();
            if before == (b.out.objects.len(), b.out.groups.clone()) {
                // Nothing was gained: the resolver must not ask for what is there.
                b.out.references = found.references;
                b.out.blocks.extend(found.blocks);
                break;
            }
        }
        let mut out = b.out;
        out.blocks.sort_by(|a, b| (a.key, &a.subject, &a.text).cmp(&(b.key, &b.subject, &b.text)));
        out.blocks.dedup();
        out
    }

    /// How a new object is had.
    pub fn place(&self, ctx: &Context, new: ObjectId) -> Place {
        if self.objects.contains_key(&new) {
            return Place::Patch;
        }
        natural_place(ctx, new)
    }
}

/// How a new object is had before anything forces a copy.
pub fn natural_place(ctx: &Context, new: ObjectId) -> Place {
    let object = &ctx.new.objects[new.index()];
    let pair = ctx.cmp.object_pair_of_new(new);
    if matches!(object.kind, ObjectKind::JumpTable(_) | ObjectKind::Unwind) {
        return Place::Patch;
    }
    match pair.old {
        Some(old) if object.writable || ctx.old.objects[old.index()].writable => Place::Base(old),
        Some(old) if pair.status == Status::Identical || is_derived(object.kind) => Place::Base(old),
        Some(_) => Place::Patch,
        None if is_derived(object.kind) => Place::Nowhere,
        None => Place::Patch,
    }
}

/// True if the prototypes of a pair differ in text.
pub fn signature_changed(ctx: &Context, old: FunctionId, new: FunctionId) -> bool {
    match (&ctx.old.functions[old.index()].prototype, &ctx.new.functions[new.index()].prototype) {
        (Some(a), Some(b)) => crate::rules::types::normalised(a) != crate::rules::types::normalised(b),
        _ => false,
    }
}

struct Builder<'a, 'c> {
    ctx: &'a Context<'c>,
    out: Closure,
    functions: Vec<FunctionId>,
    objects: Vec<ObjectId>,
}

impl Builder<'_, '_> {
    fn run(&mut self) {
        loop {
            if let Some(f) = self.functions.pop() {
                self.visit_function(f);
            } else if let Some(o) = self.objects.pop() {
                self.visit_object(o);
            } else {
                return;
            }
        }
    }

    fn add_function(&mut self, new: FunctionId, why: Why) {
        if let Entry::Vacant(slot) = self.out.functions.entry(new) {
            slot.insert(why);
            self.functions.push(new);
        }
    }

    fn add_object(&mut self, new: ObjectId, why: Why) {
        if let Entry::Vacant(slot) = self.out.objects.entry(new) {
            slot.insert(why);
            self.objects.push(new);
        }
    }

    fn block(
        &mut self,
        key: &'static str,
        about: Option<Difference>,
        subject: String,
        text: &str,
        source: Option<String>,
    ) {
        self.out.blocks.push(finding(key, Outcome::Refuse, about, subject, text, source));
    }

    fn join(&mut self, a: ObjectId, z: ObjectId) {
        let why = |o| Why::Neighbour(object_label(self.ctx.new, o));
        let (why_a, why_z) = (why(z), why(a));
        self.add_object(a, why_a);
        self.add_object(z, why_z);
        let mut merged = BTreeSet::from([a, z]);
        self.out.groups.retain(|g| {
            let touches = g.contains(&a) || g.contains(&z);
            if touches {
                merged.extend(g.iter().copied());
            }
            !touches
        });
        self.out.groups.push(merged);
        self.out.groups.sort();
    }

    fn visit_function(&mut self, new: FunctionId) {
        let ctx = self.ctx;
        let f = &ctx.new.functions[new.index()];
        let label = function_label(ctx.new, new);
        for range in &f.ranges {
            for r in ctx.new.references_in(range.rva, range.end()) {
                self.visit_reference(r, &label);
            }
        }
        for &u in &f.unwind {
            if let Some(info) = ctx.new.unwind.get(u as usize) {
                for r in &info.references {
                    self.visit_reference(r, &label);
                }
            }
        }
        for table in &f.jump_tables {
            self.add_object(table.object, Why::Needed(label.clone()));
        }
        if let Some(old) = ctx.counterpart(new) {
            self.check_entry(old, new);
        }
        // What runs on its frame relies on its layout, and is found through its unwind data.
        let named = ctx.new.named_by_unwind(new);
        for funclet in named.into_iter().filter(|id| ctx.new.functions[id.index()].funclet_of.contains(&new)) {
            self.add_function(funclet, Why::Frame(label.clone()));
        }
        for &owner in &f.funclet_of {
            self.add_function(owner, Why::Frame(label.clone()));
        }
    }

    /// A function that was matched on weak evidence is taken as a new one, and who refers to it was changed by that.
    fn retarget(&mut self, new: FunctionId) {
        let ctx = self.ctx;
        let label = function_label(ctx.new, new);
        let mut outside = Context::is_reachable_from_outside(ctx.new, new);
        for used in ctx.new_uses.of_function(new) {
            match used.user {
                User::Function(user) if user == new => {}
                User::Function(user) => self.add_function(user, Why::Retargeted(label.clone())),
                User::Object(o) => {
                    let kind = ctx.new.objects[o.index()].kind;
                    outside |= !is_derived(kind) && !matches!(kind, ObjectKind::Unwind | ObjectKind::JumpTable(_));
                }
                User::Nobody => outside = true,
            }
        }
        for user in ctx.new_uses.handler_of(new) {
            self.add_function(user, Why::Retargeted(label.clone()));
        }
        if outside {
            let (pair, about) = ctx.function_pair(new);
            let how = pair.matched.map_or_else(String::new, |m| format!(" ({:?}, score {:.2})", m.by, m.score));
            let subject = ctx.function_subject(pair.old, pair.new);
            let text = format!(
                "That the two are versions of one function rests on weak evidence{how}, and its address is known outside of code."
            );
            let source = ctx.function_source(pair.old, pair.new);
            self.block("code.match.ambiguous", Some(about), subject, &text, source);
        }
    }

    fn visit_object(&mut self, new: ObjectId) {
        let ctx = self.ctx;
        let o = &ctx.new.objects[new.index()];
        let label = object_label(ctx.new, new);
        if o.is_throw_info() {
            let (pair, about) = ctx.object_pair(new);
            let subject = ctx.object_subject(pair.old, pair.new);
            self.block("code.throw.added", Some(about), subject, "", None);
        }
        for r in ctx.new.references_in(o.rva, o.end()) {
            self.visit_reference(r, &label);
        }
    }

    fn visit_reference(&mut self, r: &Reference, user: &str) {
        let ctx = self.ctx;
        match r.target.entity {
            Entity::Function(id) | Entity::Fragment(id, _) => {
                if ctx.counterpart(id).is_none() {
                    self.add_function(id, Why::Needed(user.to_owned()));
                }
            }
            Entity::Object(id) => {
                let local = matches!(r.form, Form::ImageRelative | Form::ImageRelativeDisplacement);
                let object = &ctx.new.objects[id.index()];
                match natural_place(ctx, id) {
                    Place::Patch => self.add_object(id, Why::Needed(user.to_owned())),
                    // What is addressed relative to the patch's own image base must be in the patch.
                    Place::Base(_)
                        if local
                            && (!object.writable || object.kind == ObjectKind::Rtti)
                            && !is_derived(object.kind) =>
                    {
                        self.add_object(id, Why::Needed(user.to_owned()));
                    }
                    Place::Base(_) | Place::Nowhere => {}
                }
            }
            Entity::Import(id) => {
                if ctx.cmp.import_of_new.get(id.index()).copied().flatten().is_none() {
                    self.out.imports.insert(id);
                }
            }
            Entity::ImageBase | Entity::Unknown => {}
        }
    }
}

/// True if every way to the function is a direct call: not exported, address never taken.
pub fn is_private(ctx: &Context, new: FunctionId) -> bool {
    let f = &ctx.new.functions[new.index()];
    f.linkage != Linkage::Global
        && !Context::is_reachable_from_outside(ctx.new, new)
        && !ctx.new_uses.of_function(new).iter().any(|u| is_address_taken(ctx.new, new, u))
}
