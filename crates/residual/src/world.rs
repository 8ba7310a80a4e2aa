//! The patched address space: a snapshot of the base and the patch in memory, and what an address in it is.

use hotgraft_program::{Image, Program};

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the base image; an RVA.
    Base(u32),
    /// In the patch image; an RVA.
    Patch(u32),
    /// Elsewhere.
    Outside,
}

/// One image in memory.
pub(crate) struct Mapped {
    /// Load address.
    pub address: u64,
    /// Its bytes as they are in memory.
    pub memory: Vec<u8>,
}

impl Mapped {
    fn rva(&self, va: u64) -> Option<u32> {
        // One past the end is an address of the image too.
        let d = va.checked_sub(self.address)?;
        (d <= self.memory.len() as u64).then_some(u32::try_from(d).ok()?)
    }

    pub(crate) fn bytes(&self, rva: u32, len: u32) -> Option<&[u8]> {
        self.memory.get(rva as usize..rva as usize + len as usize)
    }
}

/// A snapshot of the patched process.
pub struct World<'a> {
    pub(crate) old: &'a Program,
    pub(crate) base: Mapped,
    /// The patch: memory, and its headers, imports and unwind data read as of any image.
    pub(crate) patch: Option<(Mapped, &'a Program)>,
}

impl<'a> World<'a> {
    /// `memory` are the bytes of each image as loaded, relocated and patched.
    pub fn new(old: &'a Program, base: (u64, Vec<u8>), patch: Option<(u64, Vec<u8>, &'a Program)>) -> World<'a> {
        World {
            old,
            base: Mapped { address: base.0, memory: base.1 },
            patch: patch.map(|(address, memory, program)| (Mapped { address, memory }, program)),
        }
    }

    pub(crate) fn place(&self, va: u64) -> Place {
        if let Some(rva) = self.base.rva(va) {
            return Place::Base(rva);
        }
        match self.patch.as_ref().and_then(|(mapped, _)| mapped.rva(va)) {
            Some(rva) => Place::Patch(rva),
            None => Place::Outside,
        }
    }

    pub(crate) fn bytes(&self, va: u64, len: u32) -> Option<&[u8]> {
        match self.place(va) {
            Place::Base(rva) => self.base.bytes(rva, len),
            Place::Patch(rva) => self.patch.as_ref()?.0.bytes(rva, len),
            Place::Outside => None,
        }
    }

    pub(crate) fn u64(&self, va: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(va, 8)?.try_into().ok()?))
    }

    /// Load address of the image that `va` lies in.
    pub(crate) fn image_of(&self, va: u64) -> Option<u64> {
        match self.place(va) {
            Place::Base(_) => Some(self.base.address),
            Place::Patch(_) => self.patch.as_ref().map(|(mapped, _)| mapped.address),
            Place::Outside => None,
        }
    }

    pub(crate) fn patch_image(&self) -> Option<&Image> {
        self.patch.as_ref().map(|(_, program)| &program.image)
    }

    /// The image (as a program) and RVA of an address.
    pub(crate) fn program_at(&self, va: u64) -> Option<(&Program, u32)> {
        match self.place(va) {
            Place::Base(rva) => Some((self.old, rva)),
            Place::Patch(rva) => Some((self.patch.as_ref()?.1, rva)),
            Place::Outside => None,
        }
    }

    /// Where control really goes when it enters `va`: through `EB F9` and `E9`, or `E9` at the entry, into the patch.
    /// Anything else is not a redirect and leads to itself.
    pub(crate) fn follow_redirect(&self, va: u64) -> u64 {
        let near_jump = |at: u64| -> Option<u64> {
            let bytes = self.bytes(at, 5)?;
            let disp = i32::from_le_bytes(bytes[1..5].try_into().ok()?);
            let to = at.wrapping_add(5).wrapping_add_signed(i64::from(disp));
            (bytes[0] == 0xE9 && matches!(self.place(to), Place::Patch(_))).then_some(to)
        };
        let short = self.bytes(va, 2).is_some_and(|b| b == [0xEB, 0xF9]);
        let to = if short { near_jump(va.wrapping_sub(5)) } else { near_jump(va) };
        to.unwrap_or(va)
    }

    /// Follow `jmp [rip+slot]` thunks (of the patch or the base) to the address in the slot, if the slot leads into an image.
    pub(crate) fn follow_thunk(&self, va: u64) -> u64 {
        let target = || -> Option<u64> {
            let bytes = self.bytes(va, 6)?;
            if bytes[..2] != [0xFF, 0x25] {
                return None;
            }
            let disp = i32::from_le_bytes(bytes[2..6].try_into().ok()?);
            let to = self.u64(va.wrapping_add(6).wrapping_add_signed(i64::from(disp)))?;
            (self.place(to) != Place::Outside).then_some(to)
        };
        target().unwrap_or(va)
    }
}
