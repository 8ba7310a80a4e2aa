//! Who refers to what, within one image.

use hotgraft_program::{Entity, Form, FunctionId, ObjectId, Program};

/// The holder of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// Code of the function.
    Function(FunctionId),
    /// The object's contents.
    Object(ObjectId),
    /// Neither: a field in bytes that belong to nothing known.
    Nobody,
}

/// One use of a function or object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Who.
    pub user: User,
    /// Index into [`Program::references`].
    pub reference: u32,
}

/// Uses by target, as a compressed table: the uses of entry `i` are `uses[starts[i]..starts[i + 1]]`.
#[derive(Debug, Default)]
struct Table {
    starts: Vec<u32>,
    uses: Vec<Use>,
}

impl Table {
    fn build(len: usize, pairs: &[(u32, Use)]) -> Self {
        let mut starts = vec![0u32; len + 1];
        for (target, _) in pairs {
            starts[*target as usize + 1] += 1;
        }
        for i in 0..len {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut uses = vec![Use { user: User::Nobody, reference: 0 }; pairs.len()];
        for (target, used) in pairs {
            let slot = &mut next[*target as usize];
            uses[*slot as usize] = *used;
            *slot += 1;
        }
        Self { starts, uses }
    }

    fn of(&self, index: usize) -> &[Use] {
        match self.starts.get(index..index + 2) {
            Some([a, b]) => &self.uses[*a as usize..*b as usize],
            _ => &[],
        }
    }
}

/// The reverse of [`Program::references`].
#[derive(Debug)]
pub struct Uses {
    functions: Table,
    objects: Table,
    unwind: Vec<Vec<u32>>,
}

impl Uses {
    /// Builds the index; the uses of one target are in the order of their sites.
    pub fn new(program: &Program) -> Self {
        let mut functions = Vec::new();
        let mut objects = Vec::new();
        for (i, r) in program.references.iter().enumerate() {
            let reference = u32::try_from(i).unwrap_or(u32::MAX);
            let used = Use { user: user_of(program, r.site), reference };
            match r.target.entity {
                Entity::Function(id) | Entity::Fragment(id, _) => functions.push((id.0, used)),
                Entity::Object(id) => objects.push((id.0, used)),
                Entity::Import(_) | Entity::ImageBase | Entity::Unknown => {}
            }
        }
        let mut unwind = vec![Vec::new(); program.functions.len()];
        for i in 0..program.functions.len() {
            let user = FunctionId(u32::try_from(i).unwrap_or(u32::MAX));
            for named in program.named_by_unwind(user) {
                if let Some(list) = unwind.get_mut(named.index()) {
                    list.push(user.0);
                }
            }
        }
        Self {
            functions: Table::build(program.functions.len(), &functions),
            objects: Table::build(program.objects.len(), &objects),
            unwind,
        }
    }

    /// Uses of a function, its fragments included.
    pub fn of_function(&self, id: FunctionId) -> &[Use] {
        self.functions.of(id.index())
    }

    /// Uses of an object.
    pub fn of_object(&self, id: ObjectId) -> &[Use] {
        self.objects.of(id.index())
    }

    /// Functions whose unwind data names `id`: as handler, filter, clean-up action, destructor or catch block.
    pub fn handler_of(&self, id: FunctionId) -> impl Iterator<Item = FunctionId> + '_ {
        self.unwind.get(id.index()).into_iter().flatten().map(|&f| FunctionId(f))
    }
}

/// Whose bytes lie at `site`.
pub fn user_of(program: &Program, site: u32) -> User {
    if let Some((id, _)) = program.function_at(site) {
        return User::Function(id);
    }
    program.object_at(site).map_or(User::Nobody, User::Object)
}

/// True if a use of `id` is anything but a direct call or jump to its entry from code, or the function's own business
/// (jump tables, branches between its ranges).
pub fn is_address_taken(program: &Program, id: FunctionId, used: &Use) -> bool {
    let r = &program.references[used.reference as usize];
    match used.user {
        User::Function(user) => {
            if r.form == Form::Branch {
                return false;
            }
            // A function that computes an address inside of itself does so for its own jumps.
            !(user == id && r.target.addend != 0)
        }
        User::Object(object) => match program.objects[object.index()].kind {
            hotgraft_program::ObjectKind::JumpTable(owner) => owner != id,
            // The unwind data and its table describe code, they do not call it.
            hotgraft_program::ObjectKind::Unwind | hotgraft_program::ObjectKind::RuntimeFunctions => false,
            _ => true,
        },
        User::Nobody => true,
    }
}
