//! An emitted image, parsed with an independent reader, and placed beside its base.

use hotgraft_hotpatch::{ChunkKind, Graft, Hotpatch, Record, check};
use hotgraft_packager::{Plan, Reach, emit};
use object::LittleEndian as LE;
use object::read::pe::{ImageOptionalHeader, PeFile64};
use object::{Object, ObjectSection};

use crate::common::Pair;

/// Where the base and the patch come to lie.
pub const BASE_AT: u64 = 0x7FF6_1000_0000;
pub const PATCH_AT: u64 = 0x7FF6_2000_0000;

pub struct Emitted {
    pub file: Vec<u8>,
    pub patch: Hotpatch,
    pub plan: Plan,
    /// The patch as an engine would place it: mapped, relocated, records and near references applied.
    pub memory: Vec<u8>,
}

impl Emitted {
    pub fn of(pair: &Pair, reach: Reach) -> Emitted {
        let mut options = pair.options.clone();
        options.reach = Some(reach);
        let plan = pair.plan();
        let file = emit::emit(&pair.old, &pair.new, &pair.cmp, &plan, &options).expect("the plan can be emitted");
        assert_eq!(
            file,
            emit::emit(&pair.old, &pair.new, &pair.cmp, &plan, &options).unwrap(),
            "same input, same bytes"
        );
        assert_eq!(check::check(&file), []);
        let patch = hotgraft_hotpatch::read(&file).unwrap();
        let memory = place(&file, &patch, &pair.old.image.mapped);
        Emitted { file, patch, plan, memory }
    }

    pub fn graft(&self) -> &Graft {
        self.patch.graft.as_ref().unwrap()
    }

    pub fn records(&self, kind: ChunkKind) -> Vec<Record> {
        let chunks = self.patch.info.bases[0].chunks.iter().filter(|c| c.kind == kind);
        chunks.flat_map(|c| c.records.clone()).collect()
    }

    /// RVA in the patch of a function.
    pub fn function(&self, name: &str) -> u32 {
        self.graft().functions.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no {name}")).patch_rva
    }

    pub fn u64(&self, rva: u32) -> u64 {
        u64::from_le_bytes(self.memory[rva as usize..][..8].try_into().unwrap())
    }

    /// Where the 4-byte field at `rva` leads, counted from the end of the field.
    pub fn follow(&self, rva: u32) -> u64 {
        let value = i32::from_le_bytes(self.memory[rva as usize..][..4].try_into().unwrap());
        (PATCH_AT + u64::from(rva) + 4).wrapping_add_signed(i64::from(value))
    }

    pub fn section(&self, name: &str) -> Option<(u32, u32)> {
        let pe = PeFile64::parse(&*self.file).unwrap();
        let section = pe.section_by_name(name)?;
        let base = pe.nt_headers().optional_header.image_base();
        Some(((section.address() - base) as u32, section.size() as u32))
    }
}

impl Emitted {
    /// RVA and bytes of a data directory.
    pub fn directory(&self, index: usize) -> (u32, u32) {
        let pe = PeFile64::parse(&*self.file).unwrap();
        let directory = pe.data_directories().get(index).expect("sixteen directories");
        (directory.virtual_address.get(LE), directory.size.get(LE))
    }
}

fn place(file: &[u8], patch: &Hotpatch, base: &[u8]) -> Vec<u8> {
    let pe = PeFile64::parse(file).unwrap();
    let header = &pe.nt_headers().optional_header;
    assert_eq!(header.size_of_image() % 0x1000, 0);
    let mut memory = vec![0u8; header.size_of_image() as usize];
    memory[..0x400].copy_from_slice(&file[..0x400]);
    let mut end = 0x1000;
    for section in pe.section_table().iter() {
        let (rva, size) = (section.virtual_address.get(LE), section.virtual_size.get(LE));
        assert_eq!(rva, end, "sections follow one another");
        end = (rva + size).next_multiple_of(0x1000);
        let data = section.pe_data(file).unwrap();
        let len = data.len().min(size as usize);
        memory[rva as usize..][..len].copy_from_slice(&data[..len]);
    }
    assert_eq!(end, header.size_of_image());
    let preferred = header.image_base();
    let mut blocks = pe.data_directories().relocation_blocks(file, &pe.section_table()).unwrap().expect("relocations");
    while let Some(block) = blocks.next().unwrap() {
        for relocation in block {
            let at = relocation.virtual_address as usize;
            let value = u64::from_le_bytes(memory[at..at + 8].try_into().unwrap());
            memory[at..at + 8].copy_from_slice(&(value - preferred + PATCH_AT).to_le_bytes());
        }
    }
    for chunk in &patch.info.bases[0].chunks {
        for record in &chunk.records {
            let at = record.place as usize;
            let target = record.target;
            let value = match chunk.kind {
                ChunkKind::Absolute => BASE_AT + u64::from(target),
                ChunkKind::Indirect => u64::from_le_bytes(base[target as usize..][..8].try_into().unwrap()),
                _ => continue,
            };
            memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    for near in &patch.graft.as_ref().unwrap().near {
        let value = (BASE_AT + u64::from(near.target)) as i64 - (PATCH_AT + u64::from(near.origin)) as i64;
        memory[near.site as usize..][..4].copy_from_slice(&i32::try_from(value).unwrap().to_le_bytes());
    }
    memory
}
