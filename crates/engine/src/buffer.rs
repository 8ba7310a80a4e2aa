//! An address space in our own memory: a base image loaded at any address, deterministic in everything, with page
//! protections enforced and any operation made to fail on demand.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::apply::Phase;
use crate::exchange::{self, Exchange, Exchanged};
use crate::pe::{self, Headers, PeError, SCN_EXECUTE, SCN_WRITE};
use crate::space::{AddressSpace, PAGE, Protection, Region, SpaceError, ThreadState};

/// First address that imports resolve to.
const IMPORTS: u64 = 0x7ff8_0000_0000;
/// Distance of two imports, bytes.
const IMPORT_STEP: u64 = 16;
/// Where allocations begin, bytes.
const GRANULARITY: u64 = 0x1_0000;
/// Highest address + 1 of the address space.
const TOP: u64 = 0x7fff_0000_0000;

/// An allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    bytes: Vec<u8>,
    /// By page.
    protections: Vec<Protection>,
    image: Option<String>,
}

/// An address space in a buffer.
#[derive(Clone, Debug, Default)]
pub struct BufferSpace {
    blocks: BTreeMap<u64, Block>,
    /// Address space that is taken but holds nothing: (address, bytes).
    reserved: Vec<(u64, u64)>,
    /// (dll in lower case, name) in the order of first use.
    imports: Vec<(String, String)>,
    threads: Vec<ThreadState>,
    /// States of the threads at later suspensions, in order, before `threads`.
    coming: Vec<Vec<ThreadState>>,
    missing_imports: bool,
    /// What somebody else writes as soon as the threads run again.
    foreign: Vec<(u64, Vec<u8>)>,
    suspended: bool,
    unwind: BTreeMap<u64, (u64, u32)>,
    /// Functions that were called, and what the next calls return.
    calls: Vec<u64>,
    results: Vec<i32>,
    call_targets: Vec<u64>,
    operations: Cell<u64>,
    fail_at: Option<u64>,
}

fn error<T>(operation: &'static str, address: u64, size: u64, message: impl Into<String>) -> Result<T, SpaceError> {
    Err(SpaceError { operation, address, size, message: message.into() })
}

impl BufferSpace {
    /// An empty address space.
    pub fn new() -> BufferSpace {
        BufferSpace::default()
    }

    /// Load a PE file at `base` (a multiple of 64 KiB): sections, base relocations, import slots.
    pub fn load(&mut self, name: &str, file: &[u8], base: u64) -> Result<(), PeError> {
        let headers = Headers::parse(file)?;
        let mut image = pe::expand(file, &headers)?;
        pe::relocate(&mut image, &headers, base.wrapping_sub(headers.image_base))?;
        for import in pe::imports(&image, &headers)? {
            let address = self.import_address(&import.dll, &import.name);
            image[import.slot as usize..import.slot as usize + 8].copy_from_slice(&address.to_le_bytes());
        }
        // As the Windows loader leaves it.
        if let Some(field) = pe::u32_at(&image, 0x3c).map(|pe| pe as usize + 48)
            && let Some(slot) = image.get_mut(field..field + 8)
        {
            slot.copy_from_slice(&base.to_le_bytes());
        }
        image.resize(image.len().next_multiple_of(PAGE as usize), 0);
        let fits =
            base.is_multiple_of(GRANULARITY) && base >= GRANULARITY && base.saturating_add(image.len() as u64) <= TOP;
        if !fits || self.in_the_way(base, image.len() as u64).is_some() {
            return Err(PeError { at: base, expected: "free memory at this load address" });
        }
        let mut protections = vec![Protection::Read; image.len() / PAGE as usize];
        for section in &headers.sections {
            let protection =
                match (section.characteristics & SCN_EXECUTE != 0, section.characteristics & SCN_WRITE != 0) {
                    // Some images have such sections; that is their affair.
                    (true, true) => Protection::Other(0x40),
                    (true, false) => Protection::ReadExecute,
                    (false, true) => Protection::ReadWrite,
                    (false, false) => Protection::Read,
                };
            let first = section.rva as usize / PAGE as usize;
            let last = (section.rva as usize + section.size as usize).div_ceil(PAGE as usize);
            protections[first..last].fill(protection);
        }
        self.blocks.insert(base, Block { bytes: image, protections, image: Some(name.to_owned()) });
        Ok(())
    }

    /// Take an image away, as FreeLibrary does.
    pub fn unload(&mut self, base: u64) {
        if self.blocks.get(&base).is_some_and(|block| block.image.is_some()) {
            self.blocks.remove(&base);
        }
    }

    /// Take address space without memory behind it, to make room scarce.
    pub fn reserve(&mut self, address: u64, size: u64) {
        self.reserved.push((address, size));
    }

    /// End of what is in the way of an allocation (VA), if anything is.
    fn in_the_way(&self, address: u64, size: u64) -> Option<u64> {
        let end = address + size;
        let below = self.blocks.range(..end).next_back().map(|(&start, block)| (start, block.bytes.len() as u64));
        let overlaps = |&(start, size): &(u64, u64)| start < end && start.saturating_add(size) > address;
        below.iter().chain(&self.reserved).filter(|taken| overlaps(taken)).map(|(start, size)| start + size).max()
    }

    fn import_address(&mut self, dll: &str, name: &str) -> u64 {
        let key = (dll.to_ascii_lowercase(), name.to_owned());
        let index = self.imports.iter().position(|known| *known == key).unwrap_or_else(|| {
            self.imports.push(key);
            self.imports.len() - 1
        });
        IMPORTS + index as u64 * IMPORT_STEP
    }

    /// Which import resolves to `address`: (dll in lower case, name).
    pub fn import_at(&self, address: u64) -> Option<(&str, &str)> {
        let offset = address.checked_sub(IMPORTS)?;
        let (dll, name) = self.imports.get((offset / IMPORT_STEP) as usize).filter(|_| offset % IMPORT_STEP == 0)?;
        Some((dll, name))
    }

    /// Make new imports fail to resolve.
    pub fn without_imports(&mut self) {
        self.missing_imports = true;
    }

    /// Where the threads are.
    pub fn set_threads(&mut self, threads: Vec<ThreadState>) {
        self.threads = threads;
    }

    /// What the next suspensions report, one after the other, before what `set_threads` set.
    pub fn set_coming_threads(&mut self, coming: Vec<Vec<ThreadState>>) {
        self.coming = coming;
    }

    /// Whether threads are suspended.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Registered unwind tables: (table, (base, count)), by address.
    pub fn unwind_tables(&self) -> &BTreeMap<u64, (u64, u32)> {
        &self.unwind
    }

    /// Registered call targets (VA).
    pub fn call_targets(&self) -> &[u64] {
        &self.call_targets
    }

    /// Functions that were called (VA): they are noted, not run.
    pub fn calls(&self) -> &[u64] {
        &self.calls
    }

    /// What the next calls return, one after the other, and 0 after that.
    pub fn set_results(&mut self, results: Vec<i32>) {
        self.results = results;
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// Make the operation after `n` further ones fail, once.
    pub fn fail_after(&mut self, n: u64) {
        self.fail_at = Some(self.operations.get() + n);
    }

    /// Change bytes whatever the protection: what another tool would do.
    pub fn poke(&mut self, address: u64, bytes: &[u8]) -> Result<(), SpaceError> {
        let (block, at) = self.block_mut("poke", address, bytes.len() as u64)?;
        block.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Change bytes right after the next exchange: what a tool does that sees to it that its own hook stays.
    pub fn poke_after_exchange(&mut self, address: u64, bytes: &[u8]) {
        self.foreign.push((address, bytes.to_vec()));
    }

    /// All memory and protections, to compare two moments.
    pub fn snapshot(&self) -> Vec<(u64, Vec<u8>, Vec<Protection>)> {
        self.blocks.iter().map(|(&at, block)| (at, block.bytes.clone(), block.protections.clone())).collect()
    }

    fn suspend(&mut self) -> Result<Vec<ThreadState>, SpaceError> {
        self.step("suspend", 0, 0)?;
        self.suspended = true;
        if !self.coming.is_empty() {
            return Ok(self.coming.remove(0));
        }
        Ok(self.threads.clone())
    }

    fn resume(&mut self) {
        self.suspended = false;
    }

    fn step(&self, operation: &'static str, address: u64, size: u64) -> Result<(), SpaceError> {
        let number = self.operations.get();
        self.operations.set(number + 1);
        if self.fail_at == Some(number) {
            return error(operation, address, size, "made to fail");
        }
        Ok(())
    }

    fn block(&self, operation: &'static str, address: u64, size: u64) -> Result<(&Block, usize), SpaceError> {
        if let Some((start, block)) = self.blocks.range(..=address).next_back() {
            let at = address - start;
            if at.checked_add(size).is_some_and(|end| end <= block.bytes.len() as u64) {
                return Ok((block, at as usize));
            }
        }
        error(operation, address, size, "not mapped")
    }

    fn block_mut(
        &mut self,
        operation: &'static str,
        address: u64,
        size: u64,
    ) -> Result<(&mut Block, usize), SpaceError> {
        if let Some((start, block)) = self.blocks.range_mut(..=address).next_back() {
            let at = address - start;
            if at.checked_add(size).is_some_and(|end| end <= block.bytes.len() as u64) {
                return Ok((block, at as usize));
            }
        }
        error(operation, address, size, "not mapped")
    }
}

fn pages_of(at: usize, size: usize) -> std::ops::Range<usize> {
    at / PAGE as usize..(at + size).div_ceil(PAGE as usize)
}

impl AddressSpace for BufferSpace {
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), SpaceError> {
        let size = out.len() as u64;
        self.step("read", address, size)?;
        let (block, at) = self.block("read", address, size)?;
        if block.protections[pages_of(at, out.len())].contains(&Protection::NoAccess) {
            return error("read", address, size, "no access");
        }
        out.copy_from_slice(&block.bytes[at..at + out.len()]);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), SpaceError> {
        let size = bytes.len() as u64;
        self.step("write", address, size)?;
        let (block, at) = self.block_mut("write", address, size)?;
        let writable = |&protection: &Protection| protection == Protection::ReadWrite;
        if !block.protections[pages_of(at, bytes.len())].iter().all(writable) {
            return error("write", address, size, "not writable");
        }
        block.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn protect(
        &mut self,
        address: u64,
        size: u64,
        protection: Protection,
    ) -> Result<Vec<(u64, u64, Protection)>, SpaceError> {
        self.step("protect", address, size)?;
        let (block, at) = self.block_mut("protect", address, size)?;
        let range = pages_of(at, size as usize);
        let start = address - at as u64;
        let mut before: Vec<(u64, u64, Protection)> = Vec::new();
        for (page, old) in range.clone().zip(&block.protections[range.clone()]) {
            let page = start + page as u64 * PAGE;
            match before.last_mut() {
                Some(last) if last.2 == *old && last.0 + last.1 == page => last.1 += PAGE,
                _ => before.push((page, PAGE, *old)),
            }
        }
        if let Protection::Other(raw) = protection
            && before.iter().all(|&(.., old)| old != protection)
            && raw & 0xc0 != 0
        {
            return error("protect", address, size, "writable and executable");
        }
        block.protections[range].fill(protection);
        Ok(before)
    }

    fn map(&mut self, size: u64, reach: (u64, u64)) -> Result<u64, SpaceError> {
        self.step("map", reach.0, size)?;
        let size = size.next_multiple_of(PAGE);
        let mut at = reach.0.max(GRANULARITY).next_multiple_of(GRANULARITY);
        while at.checked_add(size).is_some_and(|end| end - 1 <= reach.1 && end <= TOP) {
            match self.in_the_way(at, size) {
                Some(end) => at = end.next_multiple_of(GRANULARITY),
                None => {
                    let protections = vec![Protection::ReadWrite; (size / PAGE) as usize];
                    self.blocks.insert(at, Block { bytes: vec![0; size as usize], protections, image: None });
                    return Ok(at);
                }
            }
        }
        error("map", reach.0, size, "no room within reach")
    }

    fn unmap(&mut self, address: u64, size: u64) -> Result<(), SpaceError> {
        self.step("unmap", address, size)?;
        match self.blocks.get(&address) {
            Some(block) if block.image.is_none() => {
                self.blocks.remove(&address);
                Ok(())
            }
            _ => error("unmap", address, size, "not an allocation"),
        }
    }

    fn images(&self) -> Result<Vec<(u64, String)>, SpaceError> {
        self.step("images", 0, 0)?;
        Ok(self.blocks.iter().filter_map(|(&at, block)| Some((at, block.image.clone()?))).collect())
    }

    fn regions(&self) -> Result<Vec<Region>, SpaceError> {
        self.step("regions", 0, 0)?;
        let mut regions: Vec<Region> = Vec::new();
        for (&allocation, block) in &self.blocks {
            for (page, &protection) in block.protections.iter().enumerate() {
                let address = allocation + page as u64 * PAGE;
                match regions.last_mut() {
                    Some(last) if last.allocation == allocation && last.protection == protection => last.size += PAGE,
                    _ => regions.push(Region {
                        address,
                        size: PAGE,
                        allocation,
                        protection,
                        private: block.image.is_none(),
                    }),
                }
            }
        }
        Ok(regions)
    }

    fn import(&mut self, dll: &str, name: &str) -> Result<u64, SpaceError> {
        self.step("import", 0, 0)?;
        let known = self.imports.iter().any(|(d, n)| d.eq_ignore_ascii_case(dll) && n == name);
        if self.missing_imports && !known {
            return error("import", 0, 0, format!("{dll} has no {name}"));
        }
        Ok(self.import_address(dll, name))
    }

    fn threads(&mut self) -> Result<Vec<ThreadState>, SpaceError> {
        self.step("threads", 0, 0)?;
        Ok(self.threads.clone())
    }

    fn exchange(&mut self, exchange: &Exchange<'_>, ask: &dyn Fn(Phase) -> bool) -> Result<Exchanged, SpaceError> {
        let done = exchange::in_steps(self, exchange, ask, BufferSpace::suspend, BufferSpace::resume);
        for (address, bytes) in std::mem::take(&mut self.foreign) {
            self.poke(address, &bytes)?;
        }
        done
    }

    fn register_unwind(&mut self, base: u64, table: u64, count: u32) -> Result<(), SpaceError> {
        self.step("register_unwind", table, count as u64 * 12)?;
        self.unwind.insert(table, (base, count));
        Ok(())
    }

    fn unregister_unwind(&mut self, table: u64) -> Result<(), SpaceError> {
        self.step("unregister_unwind", table, 0)?;
        self.unwind.remove(&table);
        Ok(())
    }

    fn register_call_targets(&mut self, base: u64, size: u64, offsets: &[u32]) -> Result<(), SpaceError> {
        self.step("register_call_targets", base, size)?;
        self.call_targets.extend(offsets.iter().map(|&offset| base + offset as u64));
        Ok(())
    }

    fn call(&mut self, address: u64) -> Result<i32, SpaceError> {
        self.step("call", address, 0)?;
        let (block, at) = self.block("call", address, 1)?;
        if block.protections[at / PAGE as usize] != Protection::ReadExecute {
            return error("call", address, 0, "not executable");
        }
        if self.suspended {
            return error("call", address, 0, "the threads are suspended");
        }
        self.calls.push(address);
        Ok(if self.results.is_empty() { 0 } else { self.results.remove(0) })
    }

    fn flush(&mut self, address: u64, size: u64) -> Result<(), SpaceError> {
        self.step("flush", address, size)
    }
}
