//! A live Windows process as an [`AddressSpace`]. `docs/engine-on-windows.md` describes how it works and why.

mod agent;
pub mod audit;
pub mod doctor;
mod exports;
#[cfg(feature = "faults")]
pub mod faults;
mod run;
mod stub;
mod sys;
pub mod system;
pub mod watch;

use std::collections::BTreeMap;

use agent::{Agent, Depth, Looked};
use exports::Export;
pub use run::{RunError, RunOptions, RunReport, Told, run};
use sys::{Handle, Result, access};

use crate::apply::Phase;
use crate::exchange::{Exchange, Exchanged, Forbidden};
use crate::memory::MappedImage;
use crate::pe::MACHINE_AMD64;
use crate::space::{AddressSpace, PAGE, Protection, Region, SpaceError, ThreadState};

const PAGE_NOACCESS: u32 = 0x01;
const PAGE_READONLY: u32 = 0x02;
const PAGE_READWRITE: u32 = 0x04;
const PAGE_EXECUTE_READ: u32 = 0x20;
/// PAGE_GUARD, PAGE_NOCACHE, PAGE_WRITECOMBINE: pages with these are never read.
const PAGE_SPECIAL: u32 = 0x700;
/// Lowest and highest address of user memory that is looked at.
const LOWEST: u64 = 0x1_0000;
const HIGHEST: u64 = 0x7fff_fffe_ffff;
const GRANULARITY: u64 = 0x1_0000;

/// What a process is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read its memory: enough for `query` and `assess`.
    Query,
    /// Change it.
    Change,
}

/// A live process.
#[derive(Debug)]
pub struct LiveProcess {
    process: Handle,
    pid: u32,
    agent: Option<Agent>,
    /// Resolved addresses of ntdll's functions.
    ntdll: BTreeMap<&'static str, u64>,
}

/// A process of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Id.
    pub pid: u32,
    /// File name of its program.
    pub name: String,
}

/// All processes of the machine, by id.
pub fn processes() -> Result<Vec<Process>> {
    let mut all: Vec<Process> = sys::processes()?.into_iter().map(|(pid, name)| Process { pid, name }).collect();
    all.sort_by_key(|process| process.pid);
    Ok(all)
}

/// Path (UTF-16) of the image of this process that holds an address.
///
/// # Errors
/// What the system says; none holds it.
pub fn own_path(address: u64) -> std::io::Result<Vec<u16>> {
    sys::path_of_own(address)
}

fn refused<T>(operation: &'static str, address: u64, message: impl Into<String>) -> Result<T> {
    Err(SpaceError { operation, address, size: 0, message: message.into() })
}

fn from_raw(raw: u32) -> Protection {
    match raw {
        PAGE_NOACCESS => Protection::NoAccess,
        PAGE_READONLY => Protection::Read,
        PAGE_READWRITE => Protection::ReadWrite,
        PAGE_EXECUTE_READ => Protection::ReadExecute,
        other => Protection::Other(other),
    }
}

fn to_raw(protection: Protection) -> u32 {
    match protection {
        Protection::NoAccess => PAGE_NOACCESS,
        Protection::Read => PAGE_READONLY,
        Protection::ReadWrite => PAGE_READWRITE,
        Protection::ReadExecute => PAGE_EXECUTE_READ,
        Protection::Other(raw) => raw,
    }
}

impl LiveProcess {
    /// Open a process. Only x86-64 processes on an x86-64 system are served, and for [`Access::Change`] only those that
    /// may have new executable memory.
    pub fn open(pid: u32, purpose: Access) -> Result<LiveProcess> {
        if purpose == Access::Change && pid == std::process::id() {
            return refused("open process", pid as u64, "a process cannot change itself from outside");
        }
        let rights = if purpose == Access::Change { access::CHANGE } else { access::QUERY };
        let process = sys::open_process(pid, rights)?;
        let (machine, native) = sys::machines(&process)?;
        if machine != MACHINE_AMD64 || native != MACHINE_AMD64 {
            let message = format!("process of machine {machine:#06x} on {native:#06x}: only x86-64 is served");
            return refused("open process", pid as u64, message);
        }
        if purpose == Access::Change && sys::prohibits_dynamic_code(&process) {
            return refused("open process", pid as u64, "its policy prohibits dynamic code (ACG)");
        }
        Ok(LiveProcess { process, pid, agent: None, ntdll: BTreeMap::new() })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn module(&self, name: &str) -> Result<Option<MappedImage>> {
        let wanted = |known: &str| {
            known.eq_ignore_ascii_case(name)
                || known.len() == name.len() + 4
                    && known.is_char_boundary(name.len())
                    && known[..name.len()].eq_ignore_ascii_case(name)
                    && known[name.len()..].eq_ignore_ascii_case(".dll")
        };
        for (base, known) in sys::modules(&self.process)? {
            if wanted(&known) {
                return MappedImage::read(self, base)
                    .map(Some)
                    .or_else(|error| refused("read image", base, error.to_string()));
            }
        }
        Ok(None)
    }

    /// A function of ntdll in the target.
    fn ntdll(&mut self, name: &'static str) -> Result<u64> {
        if let Some(&address) = self.ntdll.get(name) {
            return Ok(address);
        }
        let Some(image) = self.module("ntdll.dll")? else {
            return refused("find ntdll", 0, "the process has no ntdll yet");
        };
        match exports::find(&self.process, &image, name) {
            Some(Export::At(address)) => {
                self.ntdll.insert(name, address);
                Ok(address)
            }
            _ => refused("find export", image.base, format!("ntdll has no {name}")),
        }
    }

    /// The agent, started where it is not there yet.
    fn agent(&mut self) -> Result<&Agent> {
        if self.agent.is_none() {
            let mut resolved = BTreeMap::new();
            for name in stub::FUNCTIONS {
                resolved.insert(name, self.ntdll(name)?);
            }
            let resolve = |name: &str| match resolved.get(name) {
                Some(&address) => Ok(address),
                None => refused("find export", 0, name),
            };
            self.agent = Some(Agent::start(&self.process, resolve)?);
        }
        self.running_agent()
    }

    fn running_agent(&self) -> Result<&Agent> {
        match &self.agent {
            Some(agent) => Ok(agent),
            None => refused("ask the agent", 0, "there is none"),
        }
    }

    fn call_ntdll(&mut self, function: &'static str, arguments: &[u64]) -> Result<u64> {
        let address = self.ntdll(function)?;
        self.agent()?;
        self.running_agent()?.call(&self.process, address, arguments)
    }

    /// Resolve by the exports in memory, forwarders followed; `None` if a DLL is not loaded or is a set of contracts.
    fn resolve(&self, dll: &str, name: &str) -> Result<Option<u64>> {
        let (mut dll, mut name) = (dll.to_owned(), name.to_owned());
        for _ in 0..8 {
            let Some(image) = self.module(&dll)? else {
                return Ok(None);
            };
            match exports::find(&self.process, &image, &name) {
                Some(Export::At(address)) => return Ok(Some(address)),
                Some(Export::Forwarded(to)) => match to.rsplit_once('.') {
                    Some((to_dll, to_name)) => (dll, name) = (to_dll.to_owned(), to_name.to_owned()),
                    None => return Ok(None),
                },
                None => return refused("find export", image.base, format!("{dll} has no {name}")),
            }
        }
        refused("find export", 0, format!("{dll}: forwarded too often"))
    }

    /// Let the target's own loader find the function, loading the DLL.
    fn load(&mut self, dll: &str, name: &str) -> Result<u64> {
        let scratch = self.agent()?.put(&[]);
        // UNICODE_STRING of the DLL, the result, then the text.
        let text: Vec<u8> = dll.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(text.len() as u16 + 2).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(scratch + 0x20).to_le_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&text);
        bytes.extend_from_slice(&[0; 2]);
        self.running_agent()?.put(&bytes);
        let status = self.call_ntdll("LdrLoadDll", &[0, 0, scratch, scratch + 0x10])? as i32;
        if status < 0 {
            return refused("load DLL", 0, format!("{dll}: NTSTATUS {status:#010x}"));
        }
        let module = self.running_agent()?.result(0x10);
        // ANSI_STRING of the function, the result, then the text.
        let ordinal = name.strip_prefix('#').and_then(|text| text.parse::<u16>().ok());
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(name.len() as u16 + 1).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(scratch + 0x20).to_le_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        self.running_agent()?.put(&bytes);
        let text = if ordinal.is_some() { 0 } else { scratch };
        let arguments = [module, text, ordinal.unwrap_or(0) as u64, scratch + 0x10];
        let status = self.call_ntdll("LdrGetProcedureAddress", &arguments)? as i32;
        if status < 0 {
            return refused("find export", module, format!("{dll} has no {name}: NTSTATUS {status:#010x}"));
        }
        Ok(self.running_agent()?.result(0x10))
    }

    /// For how long all threads of the process stand still when they are stopped and let go, and nothing is done meanwhile:
    /// no exchange can be shorter. For measurements.
    ///
    /// # Errors
    /// If the agent cannot do it.
    pub fn shortest_pause(&mut self) -> Result<std::time::Duration> {
        self.agent()?;
        match self.running_agent()?.exchange(&self.process, &Exchange::default(), Depth::Floor)? {
            Exchanged::Done { pause } => Ok(pause),
            other => refused("stop the threads", 0, format!("{other:?}")),
        }
    }

    /// Code of the target, as (start, end), sorted: what a value on a stack can be a return address into.
    fn code(&self) -> Result<Vec<(u64, u64)>> {
        let executable = |region: &Region| {
            matches!(region.protection, Protection::ReadExecute | Protection::Other(0x10 | 0x40 | 0x80))
        };
        let code = self.regions()?.into_iter().filter(executable);
        Ok(code.map(|region| (region.address, region.address + region.size)).collect())
    }

    fn free_within(&self, size: u64, reach: (u64, u64)) -> Vec<u64> {
        let mut found = Vec::new();
        let mut at = reach.0.max(LOWEST);
        while at <= reach.1.min(HIGHEST) {
            let Some(pages) = sys::query(&self.process, at) else {
                break;
            };
            let end = pages.address.saturating_add(pages.size);
            if pages.free {
                let start = at.next_multiple_of(GRANULARITY);
                let last = end.min(reach.1.saturating_add(1));
                if start.checked_add(size).is_some_and(|end| end <= last) {
                    // Both ends, so that the one nearer to the base can be chosen.
                    found.push(start);
                    found.push((last - size) & !(GRANULARITY - 1));
                }
            }
            at = end.max(at + PAGE);
        }
        found
    }
}

impl Drop for LiveProcess {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop(&self.process);
        }
    }
}

impl AddressSpace for LiveProcess {
    fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        sys::read(&self.process, address, out)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        sys::write(&self.process, address, bytes)
    }

    fn protect(&mut self, address: u64, size: u64, protection: Protection) -> Result<Vec<(u64, u64, Protection)>> {
        let end = (address + size).next_multiple_of(PAGE);
        let start = address & !(PAGE - 1);
        let mut before = Vec::new();
        let mut at = start;
        while at < end {
            match sys::query(&self.process, at).filter(|pages| pages.committed) {
                Some(pages) => {
                    let next = (pages.address + pages.size).min(end);
                    before.push((at, next - at, from_raw(pages.protection)));
                    at = next;
                }
                None => return refused("protect", at, "not committed"),
            }
        }
        let writable_code = |raw: u32| raw & 0xc0 != 0;
        if matches!(protection, Protection::Other(raw) if writable_code(raw))
            && before.iter().all(|&(.., old)| old != protection)
        {
            return refused("protect", address, "writable and executable");
        }
        sys::protect(&self.process, start, end - start, to_raw(protection))?;
        Ok(before)
    }

    fn map(&mut self, size: u64, reach: (u64, u64)) -> Result<u64> {
        let middle = reach.0 / 2 + reach.1 / 2;
        let size = size.next_multiple_of(PAGE);
        let mut places = self.free_within(size, reach);
        places.sort_by_key(|&at| at.abs_diff(middle));
        for at in places {
            // Somebody else may have been quicker.
            if let Ok(at) = sys::allocate(&self.process, at, size) {
                return Ok(at);
            }
        }
        Err(SpaceError { operation: "map", address: reach.0, size, message: "no room within reach".into() })
    }

    fn unmap(&mut self, address: u64, _size: u64) -> Result<()> {
        // An agent that did not answer in time may still do what it was asked for, and lead code to this memory.
        if self.agent.as_ref().is_some_and(|agent| !agent.answers()) {
            return refused("unmap", address, "the agent does not answer");
        }
        sys::free(&self.process, address)
    }

    fn images(&self) -> Result<Vec<(u64, String)>> {
        let mut images = sys::modules(&self.process)?;
        images.sort_by_key(|image| image.0);
        Ok(images)
    }

    fn regions(&self) -> Result<Vec<Region>> {
        let mut regions = Vec::new();
        let mut at = LOWEST;
        while at <= HIGHEST {
            // Half a list would hide records, and code that a stack leads back into.
            let Some(pages) = sys::query(&self.process, at) else {
                return refused("list memory", at, "the system does not tell what lies there");
            };
            if pages.committed && pages.protection & PAGE_SPECIAL == 0 {
                regions.push(Region {
                    address: pages.address,
                    size: pages.size,
                    allocation: pages.allocation,
                    protection: from_raw(pages.protection),
                    private: pages.private,
                });
            }
            at = pages.address.saturating_add(pages.size).max(at + PAGE);
        }
        Ok(regions)
    }

    fn import(&mut self, dll: &str, name: &str) -> Result<u64> {
        match self.resolve(dll, name)? {
            Some(address) => Ok(address),
            None => self.load(dll, name),
        }
    }

    /// Every aligned value between a stack pointer and the start of its stack that lies in code counts as a return address:
    /// more than there are, never fewer. Of a stack that is too deep to be copied nothing is known.
    fn threads(&mut self) -> Result<Vec<ThreadState>> {
        let code = self.code()?;
        let is_code = |&address: &u64| {
            let below = code.partition_point(|&(start, _)| start <= address);
            below > 0 && address < code[below - 1].1
        };
        let state = |thread: Looked| {
            let words = thread.stack.chunks_exact(8).map(|word| word.try_into().map(u64::from_le_bytes).unwrap_or(0));
            let return_addresses = words.filter(is_code).collect();
            ThreadState { id: thread.id, ip: thread.ip, sp: thread.sp, return_addresses }
        };
        self.agent()?;
        Ok(self.running_agent()?.look(&self.process)?.into_iter().map(state).collect())
    }

    fn probe(&mut self, thread: u32, forbidden: &[Forbidden]) -> Result<Option<u64>> {
        self.agent()?;
        self.running_agent()?.probe(&self.process, thread, forbidden)
    }

    /// All of it is done by the agent, so that the threads stand still for no longer than that takes. Thus `ask` is asked
    /// before.
    fn exchange(&mut self, exchange: &Exchange<'_>, ask: &dyn Fn(Phase) -> bool) -> Result<Exchanged> {
        self.agent()?;
        for phase in [Phase::CheckThreads, Phase::CheckSites, Phase::Commit] {
            if !ask(phase) {
                return Ok(Exchanged::Stopped(phase));
            }
        }
        self.running_agent()?.exchange(&self.process, exchange, Depth::Whole)
    }

    fn register_unwind(&mut self, base: u64, table: u64, count: u32) -> Result<()> {
        match self.call_ntdll("RtlAddFunctionTable", &[table, count as u64, base])? as u8 {
            0 => refused("register unwind table", table, "refused by the system"),
            _ => Ok(()),
        }
    }

    fn unregister_unwind(&mut self, table: u64) -> Result<()> {
        match self.call_ntdll("RtlDeleteFunctionTable", &[table])? as u8 {
            0 => refused("unregister unwind table", table, "refused by the system"),
            _ => Ok(()),
        }
    }

    fn register_call_targets(&mut self, base: u64, size: u64, offsets: &[u32]) -> Result<()> {
        if sys::has_flow_guard(&self.process) {
            // Memory that becomes executable has all its 16-byte slots as valid targets, so that a refusal (older
            // systems want the whole region) leaves nothing undone.
            let _ = sys::valid_call_targets(&self.process, base, size, offsets);
        }
        Ok(())
    }

    fn call(&mut self, address: u64) -> Result<i32> {
        self.agent()?;
        // An int: the upper half of the register has no meaning.
        Ok(self.running_agent()?.call(&self.process, address, &[])? as i32)
    }

    fn flush(&mut self, address: u64, size: u64) -> Result<()> {
        sys::flush(&self.process, address, size)
    }
}
