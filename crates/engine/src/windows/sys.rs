//! The Windows API behind safe functions: the only place (with the agent's code, `stub.rs`) that is `unsafe`, because
//! foreign functions are. Every function says what it passes on; nothing here decides anything.
#![allow(unsafe_code, reason = "calls into the Windows API")]

use std::ffi::c_void;
use std::mem::{size_of, zeroed};
use std::ptr::{null, null_mut};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use windows_sys::Wdk::System::Memory::{NtMapViewOfSection, NtUnmapViewOfSection};
use windows_sys::Wdk::System::SystemInformation::NtQuerySystemInformation;
use windows_sys::Wdk::System::Threading::NtQueryInformationProcess;
use windows_sys::Win32::Foundation::*;
use windows_sys::Win32::System::Console::SetConsoleCtrlHandler;
use windows_sys::Win32::System::Diagnostics::Debug::*;
use windows_sys::Win32::System::Diagnostics::ToolHelp::*;
use windows_sys::Win32::System::EventLog::{DeregisterEventSource, RegisterEventSourceW, ReportEventW};
use windows_sys::Win32::System::LibraryLoader::{
    GetModuleFileNameW, GetModuleHandleA, GetModuleHandleExW, GetProcAddress,
};
use windows_sys::Win32::System::Memory::*;
use windows_sys::Win32::System::Performance::QueryPerformanceFrequency;
use windows_sys::Win32::System::ProcessStatus::*;
use windows_sys::Win32::System::Threading::*;
use windows_sys::Win32::System::WindowsProgramming::{GetComputerNameW, GetUserNameW};
use windows_sys::core::BOOL;

use crate::space::SpaceError;

pub(super) type Result<T> = std::result::Result<T, SpaceError>;

/// Rights of a process handle.
pub(super) mod access {
    use windows_sys::Win32::System::Threading::*;

    /// Enough to ask for policies, even of a protected process.
    pub const ASK: u32 = PROCESS_QUERY_LIMITED_INFORMATION;
    /// Enough to read memory and list images.
    pub const QUERY: u32 = PROCESS_VM_READ | PROCESS_QUERY_INFORMATION;
    /// Enough to change memory, start the agent and exchange handles with it.
    pub const CHANGE: u32 =
        QUERY | PROCESS_VM_WRITE | PROCESS_VM_OPERATION | PROCESS_CREATE_THREAD | PROCESS_DUP_HANDLE | SYNCHRONIZE;
    /// Waiting for an object.
    pub const SYNCHRONIZE: u32 = 0x10_0000;
    /// Setting and waiting for an event.
    pub const EVENT: u32 = SYNCHRONIZE | 2;
    /// Looking at a thread, suspending and resuming it.
    pub const THREAD: u32 = THREAD_GET_CONTEXT | THREAD_SUSPEND_RESUME;
}

/// A handle that is closed when dropped.
#[derive(Debug)]
pub(super) struct Handle(HANDLE);

// SAFETY: kernel handles are valid on all threads of the process.
unsafe impl Send for Handle {}
// SAFETY: as above; every use is a system call.
unsafe impl Sync for Handle {}

impl Handle {
    /// Its value, for structures that name a process by it.
    pub fn number(&self) -> u64 {
        self.0 as u64
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone.
        unsafe { CloseHandle(self.0) };
    }
}

#[cfg(feature = "faults")]
use super::faults::step;

/// Where a fault can be put in front of a system call.
#[cfg(not(feature = "faults"))]
fn step(_: &'static str) -> Result<()> {
    Ok(())
}

/// An error with what the system says about its last failure.
pub(super) fn failed<T>(operation: &'static str, address: u64, size: u64) -> Result<T> {
    let message = std::io::Error::last_os_error().to_string();
    Err(SpaceError { operation, address, size, message })
}

fn check(ok: BOOL, operation: &'static str, address: u64, size: u64) -> Result<()> {
    if ok != 0 { Ok(()) } else { failed(operation, address, size) }
}

fn owned(handle: HANDLE, operation: &'static str, id: u64) -> Result<Handle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE { failed(operation, id, 0) } else { Ok(Handle(handle)) }
}

/// OpenProcess.
pub(super) fn open_process(pid: u32, rights: u32) -> Result<Handle> {
    step("open_process")?;
    // SAFETY: no pointers.
    owned(unsafe { OpenProcess(rights, 0, pid) }, "open process", pid as u64)
}

/// The machine of the process and of the system (IMAGE_FILE_MACHINE_*).
pub(super) fn machines(process: &Handle) -> Result<(u16, u16)> {
    step("machines")?;
    let (mut of_process, mut native) = (0, 0);
    // SAFETY: both pointers are to locals.
    check(unsafe { IsWow64Process2(process.0, &mut of_process, &mut native) }, "query machine", 0, 0)?;
    Ok((if of_process == 0 { native } else { of_process }, native))
}

/// Whether the process may not create executable memory.
pub(super) fn prohibits_dynamic_code(process: &Handle) -> bool {
    let mut flags = 0u32;
    // SAFETY: the policy is a structure of one u32.
    let ok = unsafe {
        GetProcessMitigationPolicy(process.0, ProcessDynamicCodePolicy, (&raw mut flags).cast(), size_of::<u32>())
    };
    ok != 0 && flags & 1 != 0
}

/// Whether the process checks indirect calls against a map of valid targets.
pub(super) fn has_flow_guard(process: &Handle) -> bool {
    let mut flags = 0u32;
    // SAFETY: the policy is a structure of one u32.
    let ok = unsafe {
        GetProcessMitigationPolicy(process.0, ProcessControlFlowGuardPolicy, (&raw mut flags).cast(), size_of::<u32>())
    };
    ok != 0 && flags & 1 != 0
}

/// A mitigation policy of one u32 (PROCESS_MITIGATION_POLICY); `None` where the system does not know it.
pub(super) fn mitigation(process: &Handle, policy: i32) -> Option<u32> {
    let mut flags = 0u32;
    // SAFETY: the policies asked for are structures of one u32.
    let ok = unsafe { GetProcessMitigationPolicy(process.0, policy, (&raw mut flags).cast(), size_of::<u32>()) };
    (ok != 0).then_some(flags)
}

/// PS_PROTECTION of the process: 0 if it is not protected. `None` where the system does not know.
pub(super) fn protection_of(process: &Handle) -> Option<u8> {
    let mut level = 0u8;
    // SAFETY: class 61 (ProcessProtectionInformation) is one byte.
    let status = unsafe { NtQueryInformationProcess(process.0, 61, (&raw mut level).cast(), 1, null_mut()) };
    (status >= 0).then_some(level)
}

/// CodeIntegrityOptions (SystemCodeIntegrityInformation); `None` where the system does not tell.
pub(super) fn code_integrity() -> Option<u32> {
    let mut info = [8u32, 0];
    // SAFETY: class 103 is a structure of its length and one u32.
    let status = unsafe { NtQuerySystemInformation(103, info.as_mut_ptr().cast(), 8, null_mut()) };
    (status >= 0).then_some(info[1])
}

/// Whether the secure kernel runs (SystemIsolatedUserModeInformation); `None` where the system does not tell.
pub(super) fn secure_kernel() -> Option<bool> {
    let mut info = [0u8; 16];
    // SAFETY: class 165 is a structure of 16 bytes.
    let status = unsafe { NtQuerySystemInformation(165, info.as_mut_ptr().cast(), 16, null_mut()) };
    (status >= 0).then_some(info[0] & 1 != 0)
}

/// A function of ntdll in this process that not every system has.
fn own_ntdll(name: &std::ffi::CStr) -> Option<unsafe extern "system" fn() -> isize> {
    // SAFETY: zero-terminated names.
    unsafe { GetProcAddress(GetModuleHandleA(c"ntdll.dll".as_ptr().cast()), name.as_ptr().cast()) }
}

/// Whether ntdll of this process has the function.
pub(super) fn has_ntdll(name: &std::ffi::CStr) -> bool {
    own_ntdll(name).is_some()
}

/// Queries of NtManageHotPatch. Its other classes change something, and are not to be had here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum HotpatchQuery {
    /// ManageHotPatchQueryPatches.
    Registered = 2,
    /// ManageHotPatchQueryActivePatches.
    Active = 6,
    /// ManageHotPatchCheckEnabled.
    Enabled = 9,
}

/// NtManageHotPatch: the NTSTATUS; `None` where the system has no such function. `answer` holds the question first.
pub(super) fn query_hotpatches(query: HotpatchQuery, answer: &mut [u8]) -> Option<u32> {
    type Function = unsafe extern "system" fn(u32, *mut c_void, u32, *mut u32) -> i32;
    let found = own_ntdll(c"NtManageHotPatch")?;
    let mut size = 0;
    // SAFETY: the signature is the one that phnt documents; `answer` is valid for its length.
    let status = unsafe {
        std::mem::transmute::<unsafe extern "system" fn() -> isize, Function>(found)(
            query as u32,
            answer.as_mut_ptr().cast(),
            answer.len() as u32,
            &mut size,
        )
    };
    Some(status.cast_unsigned())
}

/// Version of Windows: (major, minor, build).
pub(super) fn windows_version() -> Option<(u32, u32, u32)> {
    type Function = unsafe extern "system" fn(*mut u32) -> i32;
    let found = own_ntdll(c"RtlGetVersion")?;
    // OSVERSIONINFOW: size, major, minor, build, platform, 128 UTF-16 units.
    let mut info = [0u32; 5 + 64];
    info[0] = size_of::<[u32; 69]>() as u32;
    // SAFETY: the function's documented signature; `info` states its size.
    let status =
        unsafe { std::mem::transmute::<unsafe extern "system" fn() -> isize, Function>(found)(info.as_mut_ptr()) };
    (status >= 0).then_some((info[1], info[2], info[3]))
}

/// ReadProcessMemory.
pub(super) fn read(process: &Handle, address: u64, out: &mut [u8]) -> Result<()> {
    step("read")?;
    let mut done = 0;
    // SAFETY: `out` is valid for its length.
    let ok = unsafe {
        ReadProcessMemory(process.0, address as *const c_void, out.as_mut_ptr().cast(), out.len(), &mut done)
    };
    check((ok != 0 && done == out.len()) as BOOL, "read", address, out.len() as u64)
}

/// WriteProcessMemory.
pub(super) fn write(process: &Handle, address: u64, bytes: &[u8]) -> Result<()> {
    step("write")?;
    let mut done = 0;
    // SAFETY: `bytes` is valid for its length.
    let ok = unsafe {
        WriteProcessMemory(process.0, address as *const c_void, bytes.as_ptr().cast(), bytes.len(), &mut done)
    };
    check((ok != 0 && done == bytes.len()) as BOOL, "write", address, bytes.len() as u64)
}

/// What VirtualQueryEx says of the pages at an address.
pub(super) struct Pages {
    pub address: u64,
    pub size: u64,
    pub allocation: u64,
    pub committed: bool,
    pub free: bool,
    pub protection: u32,
    pub private: bool,
}

/// VirtualQueryEx; `None` above the last address.
pub(super) fn query(process: &Handle, address: u64) -> Option<Pages> {
    step("query").ok()?;
    // SAFETY: a plain structure, filled by the call.
    let mut info: MEMORY_BASIC_INFORMATION = unsafe { zeroed() };
    // SAFETY: `info` is valid for its size.
    let done = unsafe {
        VirtualQueryEx(process.0, address as *const c_void, &mut info, size_of::<MEMORY_BASIC_INFORMATION>())
    };
    (done != 0).then_some(Pages {
        address: info.BaseAddress as u64,
        size: info.RegionSize as u64,
        allocation: info.AllocationBase as u64,
        committed: info.State == MEM_COMMIT,
        free: info.State == MEM_FREE,
        protection: info.Protect,
        private: info.Type == MEM_PRIVATE,
    })
}

/// VirtualAllocEx, reserve and commit, read-write, at `address` or (0) anywhere.
pub(super) fn allocate(process: &Handle, address: u64, size: u64) -> Result<u64> {
    step("allocate")?;
    // SAFETY: no pointers into our memory.
    let at = unsafe {
        VirtualAllocEx(process.0, address as *const c_void, size as usize, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE)
    };
    if at.is_null() { failed("allocate", address, size) } else { Ok(at as u64) }
}

/// VirtualFreeEx of a whole allocation.
pub(super) fn free(process: &Handle, address: u64) -> Result<()> {
    step("free")?;
    // SAFETY: no pointers into our memory.
    check(unsafe { VirtualFreeEx(process.0, address as *mut c_void, 0, MEM_RELEASE) }, "free", address, 0)
}

/// VirtualProtectEx.
pub(super) fn protect(process: &Handle, address: u64, size: u64, protection: u32) -> Result<()> {
    step("protect")?;
    let mut old = 0;
    // SAFETY: `old` is a local.
    let ok = unsafe { VirtualProtectEx(process.0, address as *const c_void, size as usize, protection, &mut old) };
    check(ok, "protect", address, size)
}

/// FlushInstructionCache.
pub(super) fn flush(process: &Handle, address: u64, size: u64) -> Result<()> {
    step("flush")?;
    // SAFETY: no pointers into our memory.
    check(unsafe { FlushInstructionCache(process.0, address as *const c_void, size as usize) }, "flush", address, size)
}

/// Loaded 64-bit images: (address, file name), as the loader lists them.
pub(super) fn modules(process: &Handle) -> Result<Vec<(u64, String)>> {
    step("modules")?;
    let mut modules: Vec<HMODULE> = vec![null_mut(); 256];
    loop {
        let bytes = (modules.len() * size_of::<HMODULE>()) as u32;
        let mut needed = 0;
        // SAFETY: `modules` is valid for `bytes`.
        let ok =
            unsafe { K32EnumProcessModulesEx(process.0, modules.as_mut_ptr(), bytes, &mut needed, LIST_MODULES_64BIT) };
        check(ok, "list images", 0, 0)?;
        let count = needed as usize / size_of::<HMODULE>();
        if count <= modules.len() {
            modules.truncate(count);
            break;
        }
        // More may be loaded meanwhile.
        modules.resize((count + 64).min(1 << 16), null_mut());
    }
    let mut name = [0u16; 512];
    let mut all = Vec::with_capacity(modules.len());
    for module in modules {
        // SAFETY: `name` is valid for its length.
        let size = unsafe { K32GetModuleBaseNameW(process.0, module, name.as_mut_ptr(), name.len() as u32) };
        // One that is being unloaded has no name any more.
        if size > 0 {
            all.push((module as u64, String::from_utf16_lossy(&name[..size as usize])));
        }
    }
    Ok(all)
}

/// Address of the process environment block.
pub(super) fn process_block(process: &Handle) -> Result<u64> {
    step("process_block")?;
    // SAFETY: a plain structure, filled by the call.
    let mut info: PROCESS_BASIC_INFORMATION = unsafe { zeroed() };
    // SAFETY: `info` is valid for its size; class 0 is ProcessBasicInformation.
    let status = unsafe {
        NtQueryInformationProcess(
            process.0,
            0,
            (&raw mut info).cast(),
            size_of::<PROCESS_BASIC_INFORMATION>() as u32,
            null_mut(),
        )
    };
    if status < 0 {
        let message = format!("NTSTATUS {status:#010x}");
        return Err(SpaceError { operation: "query process", address: 0, size: 0, message });
    }
    Ok(info.PebBaseAddress as u64)
}

#[repr(align(16))]
struct AlignedContext(CONTEXT);

/// Instruction pointer of a suspended thread. Waits until it really stands.
pub(super) fn instruction_pointer(thread: &Handle) -> Result<u64> {
    step("instruction_pointer")?;
    // SAFETY: a plain structure, filled by the call.
    let mut context = AlignedContext(unsafe { zeroed() });
    // CONTEXT_AMD64 | CONTROL
    context.0.ContextFlags = 0x10_0001;
    // SAFETY: `context` is valid and aligned.
    check(unsafe { GetThreadContext(thread.0, &mut context.0) }, "read registers", 0, 0)?;
    Ok(context.0.Rip)
}

/// OpenThread.
pub(super) fn open_thread(id: u32, rights: u32) -> Result<Handle> {
    step("open_thread")?;
    // SAFETY: no pointers.
    owned(unsafe { OpenThread(rights, 0, id) }, "open thread", id as u64)
}

/// ResumeThread.
pub(super) fn resume_thread(thread: &Handle) -> Result<()> {
    step("resume_thread")?;
    // SAFETY: no pointers.
    check((unsafe { ResumeThread(thread.0) } != u32::MAX) as BOOL, "resume thread", 0, 0)
}

/// SuspendThread.
pub(super) fn suspend_thread(thread: &Handle) -> Result<()> {
    step("suspend_thread")?;
    // SAFETY: no pointers.
    check((unsafe { SuspendThread(thread.0) } != u32::MAX) as BOOL, "suspend thread", 0, 0)
}

/// Ids of the threads of a process.
pub(super) fn threads_of(pid: u32) -> Result<Vec<u32>> {
    step("threads_of")?;
    // SAFETY: no pointers.
    let snapshot = owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0) }, "list threads", pid as u64)?;
    // SAFETY: a plain structure.
    let mut entry: THREADENTRY32 = unsafe { zeroed() };
    entry.dwSize = size_of::<THREADENTRY32>() as u32;
    let mut all = Vec::new();
    // SAFETY: `entry` states its size.
    let mut more = unsafe { Thread32First(snapshot.0, &mut entry) };
    while more != 0 {
        if entry.th32OwnerProcessID == pid {
            all.push(entry.th32ThreadID);
        }
        // SAFETY: as above.
        more = unsafe { Thread32Next(snapshot.0, &mut entry) };
    }
    Ok(all)
}

/// Running processes: (id, file name).
pub(super) fn processes() -> Result<Vec<(u32, String)>> {
    step("processes")?;
    // SAFETY: no pointers.
    let snapshot = owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) }, "list processes", 0)?;
    // SAFETY: a plain structure.
    let mut entry: PROCESSENTRY32W = unsafe { zeroed() };
    entry.dwSize = size_of::<PROCESSENTRY32W>() as u32;
    let mut all = Vec::new();
    // SAFETY: `entry` states its size.
    let mut more = unsafe { Process32FirstW(snapshot.0, &mut entry) };
    while more != 0 {
        let end = entry.szExeFile.iter().position(|&unit| unit == 0).unwrap_or(entry.szExeFile.len());
        all.push((entry.th32ProcessID, String::from_utf16_lossy(&entry.szExeFile[..end])));
        // SAFETY: as above.
        more = unsafe { Process32NextW(snapshot.0, &mut entry) };
    }
    Ok(all)
}

/// CreateRemoteThread.
pub(super) fn create_thread(process: &Handle, start: u64, parameter: u64) -> Result<Handle> {
    step("create_thread")?;
    // SAFETY: a thread start routine is an address in the target, which is not called here.
    let routine = unsafe { std::mem::transmute::<*const c_void, LPTHREAD_START_ROUTINE>(start as *const c_void) };
    // SAFETY: the parameter is an address in the target.
    let thread =
        unsafe { CreateRemoteThread(process.0, null(), 0, routine, parameter as *const c_void, 0, null_mut()) };
    owned(thread, "create thread", start)
}

/// An auto-reset event.
pub(super) fn event() -> Result<Handle> {
    step("event")?;
    // SAFETY: no pointers but null.
    owned(unsafe { CreateEventW(null(), 0, 0, null()) }, "create event", 0)
}

/// SetEvent.
pub(super) fn set_event(event: &Handle) -> Result<()> {
    step("set_event")?;
    // SAFETY: no pointers.
    check(unsafe { SetEvent(event.0) }, "set event", 0, 0)?;
    // What was asked for is under way now: an end here is an end at any point of it.
    let _ = step("asked");
    Ok(())
}

/// Ticks of RtlQueryPerformanceCounter as a duration.
pub(super) fn duration_of_ticks(ticks: u64) -> Duration {
    let mut frequency = 0i64;
    // SAFETY: `frequency` is a local.
    unsafe { QueryPerformanceFrequency(&mut frequency) };
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(frequency.max(1).cast_unsigned());
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Wait for the first of `handles`; `None` after `milliseconds`.
pub(super) fn wait(handles: &[&Handle], milliseconds: u32) -> Option<usize> {
    let raw: Vec<HANDLE> = handles.iter().map(|handle| handle.0).collect();
    // SAFETY: `raw` is valid for its length.
    let index = unsafe { WaitForMultipleObjects(raw.len() as u32, raw.as_ptr(), 0, milliseconds) };
    // The worst that can happen is that what was waited for came, and nobody noticed.
    step("wait").ok()?;
    ((index as usize) < raw.len()).then_some(index as usize)
}

/// Give the target a handle to one of our objects; returns the value that is valid in the target.
pub(super) fn give(process: &Handle, ours: &Handle, rights: u32) -> Result<u64> {
    step("give")?;
    let mut theirs = null_mut();
    // SAFETY: `theirs` is a local.
    let ok = unsafe { DuplicateHandle(GetCurrentProcess(), ours.0, process.0, &mut theirs, rights, 0, 0) };
    check(ok, "give handle", 0, 0)?;
    Ok(theirs as u64)
}

/// Give the target a handle to our own process, good for waiting alone.
pub(super) fn give_self(process: &Handle) -> Result<u64> {
    step("give_self")?;
    let mut theirs = null_mut();
    // SAFETY: `theirs` is a local.
    let ok = unsafe {
        let own = GetCurrentProcess();
        DuplicateHandle(own, own, process.0, &mut theirs, access::SYNCHRONIZE, 0, 0)
    };
    check(ok, "give handle", 0, 0)?;
    Ok(theirs as u64)
}

/// Close a handle that the target was given.
pub(super) fn take_back(process: &Handle, theirs: u64) {
    // SAFETY: the handle is closed in the target, which has not used it; none of ours is made.
    unsafe { DuplicateHandle(process.0, theirs as HANDLE, null_mut(), null_mut(), 0, 0, DUPLICATE_CLOSE_SOURCE) };
}

/// Let a thread run before all others: it holds up the whole process.
pub(super) fn hurry(thread: &Handle) {
    // SAFETY: no pointers.
    unsafe { SetThreadPriority(thread.0, THREAD_PRIORITY_TIME_CRITICAL) };
}

/// Memory that we and the target see. What is read from it was written by the target, which may be hostile.
#[derive(Debug)]
pub(super) struct Shared {
    ours: *mut u8,
    /// Where it lies in the target (VA).
    pub theirs: u64,
    size: usize,
}

// SAFETY: the view is ours; every access is a copy of bytes.
unsafe impl Send for Shared {}

impl Shared {
    /// New zeroed memory in both.
    pub fn new(process: &Handle, size: usize) -> Result<Shared> {
        step("share")?;
        // SAFETY: no pointers but null.
        let section =
            unsafe { CreateFileMappingW(INVALID_HANDLE_VALUE, null(), PAGE_READWRITE, 0, size as u32, null()) };
        let section = owned(section, "share memory", 0)?;
        // SAFETY: a new view at an address that the system chooses.
        let ours = unsafe { MapViewOfFile(section.0, FILE_MAP_READ | FILE_MAP_WRITE, 0, 0, size) };
        if ours.Value.is_null() {
            return failed("share memory", 0, size as u64);
        }
        let mut shared = Shared { ours: ours.Value.cast(), theirs: 0, size };
        let (mut theirs, mut offset, mut view) = (null_mut(), 0i64, size);
        // SAFETY: the pointers are to locals; the view is made in the target. 2: ViewUnmap.
        let status = unsafe {
            NtMapViewOfSection(section.0, process.0, &mut theirs, 0, 0, &mut offset, &mut view, 2, 0, PAGE_READWRITE)
        };
        if status < 0 {
            let message = format!("NTSTATUS {status:#010x}");
            return Err(SpaceError { operation: "share memory", address: 0, size: size as u64, message });
        }
        shared.theirs = theirs as u64;
        Ok(shared)
    }

    /// Copy out; bytes outside are left as they are.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        if offset.checked_add(out.len() as u64).is_some_and(|end| end <= self.size as u64) {
            // SAFETY: inside the view. The target may write at the same time; bytes have no invalid values, and the
            // volatile reads keep the compiler from assuming that they do not change.
            out.iter_mut().enumerate().for_each(|(index, byte)| {
                *byte = unsafe { self.ours.add(offset as usize + index).read_volatile() };
            });
        }
    }

    /// Copy in; nothing is written outside.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        if offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.size as u64) {
            for (index, &byte) in bytes.iter().enumerate() {
                // SAFETY: inside the view.
                unsafe { self.ours.add(offset as usize + index).write_volatile(byte) };
            }
        }
    }

    /// Put `new` in place of `old` (u64::MAX: of anything); returns what was there.
    pub fn exchange(&self, offset: u64, old: u64, new: u64) -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering};
        if !offset.is_multiple_of(8) || offset.checked_add(8).is_none_or(|end| end > self.size as u64) {
            return old;
        }
        // SAFETY: inside the view, aligned; the target may change it at the same time, by atomic instructions too.
        let word = unsafe { AtomicU64::from_ptr(self.ours.add(offset as usize).cast()) };
        match old {
            u64::MAX => word.swap(new, Ordering::SeqCst),
            _ => word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found),
        }
    }

    /// Take it from the target.
    pub fn release(&self, process: &Handle) {
        // SAFETY: a view in the target, which nothing there uses any more.
        unsafe { NtUnmapViewOfSection(process.0, self.theirs as *const c_void) };
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own view, which ends with this value.
        unsafe { UnmapViewOfFile(MEMORY_MAPPED_VIEW_ADDRESS { Value: self.ours.cast() }) };
    }
}

/// SetProcessValidCallTargets, where the system has it.
pub(super) fn valid_call_targets(process: &Handle, address: u64, size: u64, offsets: &[u32]) -> Result<()> {
    step("valid_call_targets")?;
    type Function = unsafe extern "system" fn(HANDLE, *const c_void, usize, u32, *mut CFG_CALL_TARGET_INFO) -> BOOL;
    // SAFETY: zero-terminated names.
    let found = unsafe {
        GetProcAddress(
            GetModuleHandleA(c"kernelbase.dll".as_ptr().cast()),
            c"SetProcessValidCallTargets".as_ptr().cast(),
        )
    };
    let Some(found) = found else {
        return Ok(());
    };
    // SAFETY: the function's documented signature.
    let function = unsafe { std::mem::transmute::<unsafe extern "system" fn() -> isize, Function>(found) };
    let mut targets: Vec<CFG_CALL_TARGET_INFO> =
        offsets.iter().map(|&offset| CFG_CALL_TARGET_INFO { Offset: offset as usize, Flags: 1 }).collect();
    // SAFETY: `targets` is valid for its length.
    let ok = unsafe {
        function(process.0, address as *const c_void, size as usize, targets.len() as u32, targets.as_mut_ptr())
    };
    check(ok, "register call targets", address, size)
}

/// Let Ctrl-C and Ctrl-Break go to the program that we run, and not end us.
pub(super) fn leave_interrupts_to_child() {
    unsafe extern "system" fn handler(kind: u32) -> BOOL {
        (kind <= 1) as BOOL
    }
    // SAFETY: the handler is a function of ours that lives for ever.
    unsafe { SetConsoleCtrlHandler(Some(handler), 1) };
}

static INTERRUPTED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Note Ctrl-C, Ctrl-Break and the end of console or session, and do not end at once.
pub(super) fn notice_interrupts() {
    // Called by a thread of its own.
    unsafe extern "system" fn handler(_: u32) -> BOOL {
        *INTERRUPTED.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        INTERRUPTED.1.notify_all();
        1
    }
    // SAFETY: the handler is a function of ours that lives for ever.
    unsafe { SetConsoleCtrlHandler(Some(handler), 1) };
}

/// Wait until one of them comes; true if one has come.
pub(super) fn wait_for_interrupt(at_most: Duration) -> bool {
    let come = INTERRUPTED.0.lock().unwrap_or_else(PoisonError::into_inner);
    match INTERRUPTED.1.wait_timeout_while(come, at_most, |come| !*come) {
        Ok((come, _)) => *come,
        Err(poisoned) => *poisoned.into_inner().0,
    }
}

/// GetUserNameW.
pub(super) fn user_name() -> Option<String> {
    let mut name = [0u16; 257];
    let mut size = name.len() as u32;
    // SAFETY: `name` is valid for `size` units. The size that comes back counts the zero.
    let ok = unsafe { GetUserNameW(name.as_mut_ptr(), &mut size) };
    (ok != 0).then(|| String::from_utf16_lossy(&name[..(size as usize).saturating_sub(1).min(name.len())]))
}

/// GetComputerNameW.
pub(super) fn host_name() -> Option<String> {
    let mut name = [0u16; 257];
    let mut size = name.len() as u32;
    // SAFETY: `name` is valid for `size` units.
    let ok = unsafe { GetComputerNameW(name.as_mut_ptr(), &mut size) };
    (ok != 0).then(|| String::from_utf16_lossy(&name[..(size as usize).min(name.len())]))
}

/// ReportEventW from the source `hotgraft`; false if it was not taken.
pub(super) fn report_event(kind: u16, text: &str) -> bool {
    let wide = |text: &str| text.encode_utf16().chain([0]).collect::<Vec<u16>>();
    let (source, text) = (wide("hotgraft"), wide(text));
    // SAFETY: zero-terminated text.
    let log = unsafe { RegisterEventSourceW(null(), source.as_ptr()) };
    if log.is_null() {
        return false;
    }
    let strings = [text.as_ptr()];
    // SAFETY: one zero-terminated string, no data, no SID; the handle is ours.
    unsafe {
        let ok = ReportEventW(log, kind, 0, 1, null_mut(), 1, 0, strings.as_ptr(), null());
        DeregisterEventSource(log);
        ok != 0
    }
}

/// Path of the image of this process that holds an address, as UTF-16.
pub(super) fn path_of_own(address: u64) -> std::io::Result<Vec<u16>> {
    let mut module = null_mut();
    // 4 | 2: by address, without counting one more user.
    // SAFETY: `module` is a local; the address is only looked up.
    let ok = unsafe { GetModuleHandleExW(6, address as *const u16, &mut module) };
    let mut path = vec![0u16; 0x8000];
    // SAFETY: `path` is valid for its length.
    let size = if ok == 0 { 0 } else { unsafe { GetModuleFileNameW(module, path.as_mut_ptr(), path.len() as u32) } };
    if size == 0 || size as usize >= path.len() {
        return Err(std::io::Error::last_os_error());
    }
    path.truncate(size as usize);
    Ok(path)
}
