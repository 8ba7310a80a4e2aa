//! What things are called in messages.

use hotgraft_program::{Entity, FunctionId, ImportId, ObjectId, ObjectKind, Program, Target};

/// Name of a function: its name, or `sub_RVA`.
pub fn function(program: &Program, id: FunctionId) -> String {
    crate::comparison::function_label(program, id)
}

/// True if people may call the function so: by its name, its decorated name, an alias, or `sub_RVA` where it has no name.
pub fn is_called(program: &Program, id: FunctionId, name: &str) -> bool {
    let f = &program.functions[id.index()];
    f.name.as_deref() == Some(name)
        || f.decorated.as_deref() == Some(name)
        || f.aliases.iter().any(|a| a == name)
        || name.strip_prefix("sub_").and_then(|h| u32::from_str_radix(h, 16).ok()) == Some(f.rva())
}

/// Name of an object: its name, its text in quotes, or its kind and RVA.
pub fn object(program: &Program, id: ObjectId) -> String {
    let o = &program.objects[id.index()];
    if matches!(o.kind, ObjectKind::String | ObjectKind::WideString)
        && o.name.as_deref().is_none_or(crate::names::is_derived_from_content)
    {
        return text(program, id, 0);
    }
    if let Some(name) = &o.name {
        return match o.scope {
            Some(scope) => format!("{}::{name}", function(program, scope)),
            None => name.clone(),
        };
    }
    let kind = match o.kind {
        ObjectKind::JumpTable(_) => "jump_table",
        ObjectKind::VTable => "vtable",
        ObjectKind::Unwind => "unwind",
        ObjectKind::InitializerTable => "initialisers",
        _ if o.writable => "data",
        _ => "const",
    };
    format!("{kind}_{:x}", o.rva)
}

/// Name of an import: `dll!name`.
pub fn import(program: &Program, id: ImportId) -> String {
    let import = &program.imports[id.index()];
    format!("{}!{}", import.dll, import.name)
}

/// Name of a target: the entity and the offset in it.
pub fn target(program: &Program, target: Target) -> String {
    let name = match target.entity {
        Entity::Function(id) => function(program, id),
        Entity::Fragment(id, n) => format!("{}.part{n}", function(program, id)),
        Entity::Object(id) => {
            let o = &program.objects[id.index()];
            if matches!(o.kind, ObjectKind::String | ObjectKind::WideString) && o.name.is_none() {
                return text(program, id, target.addend);
            }
            object(program, id)
        }
        Entity::Import(id) => import(program, id),
        Entity::ImageBase => "__ImageBase".to_owned(),
        Entity::Unknown => return format!("unknown_{:x}", target.addend),
    };
    match target.addend {
        0 => name,
        n if n > 0 => format!("{name}+{n:#x}"),
        n => format!("{name}-{:#x}", n.unsigned_abs()),
    }
}

/// Text of a string object in quotes, shortened.
fn text(program: &Program, id: ObjectId, offset: i64) -> String {
    const SHOWN: usize = 60;
    let o = &program.objects[id.index()];
    let wide = o.kind == ObjectKind::WideString;
    let bytes = program.image.bytes(o.rva, o.size as usize).unwrap_or(&[]);
    let bytes = usize::try_from(offset).ok().and_then(|n| bytes.get(n..)).unwrap_or(&[]);
    let decoded = if wide {
        let units: Vec<u16> =
            bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).take_while(|u| *u != 0).collect();
        String::from_utf16_lossy(&units)
    } else {
        String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or(&[])).into_owned()
    };
    let short: String = decoded.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let more = if decoded.chars().count() > SHOWN { "..." } else { "" };
    format!("{}\"{short}{more}\"", if wide { "L" } else { "" })
}
