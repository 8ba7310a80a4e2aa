//! The agent's code: a few hundred bytes that run as a thread of the target.
//!
//! Whoever suspends the threads of another process leaves them suspended when it is killed. So it is the target itself
//! that suspends, checks, writes and resumes: a thread in it takes commands through a block of memory and two events. A
//! command that stops threads lets them go before it answers, so that nothing ever waits for the other process, neither
//! for its life nor for its next time slice.
//!
//! Written in assembler because it must be position independent, must call nothing but system calls (any other function
//! could wait for a lock that a suspended thread holds), and is copied byte for byte.
#![allow(unsafe_code, reason = "refers to the bounds of assembled code")]

use std::arch::global_asm;

/// Offsets in the block.
pub(super) mod at {
    /// The command (4 bytes), behind it the status of the last one (4 bytes).
    pub const COMMAND: u64 = 0x00;
    pub const STATUS: u64 = 0x04;
    /// Threads in the table.
    pub const COUNT: u64 = 0x08;
    /// The event that brings a command, directly in front of the process that gives it.
    pub const REQUEST: u64 = 0x10;
    pub const OWNER: u64 = 0x18;
    pub const REPLY: u64 = 0x20;
    pub const FUNCTION: u64 = 0x30;
    pub const ARGUMENTS: u64 = 0x38;
    pub const RESULT: u64 = 0x68;
    /// Addresses of `FUNCTIONS`.
    pub const FUNCTIONS: u64 = 0x80;
    pub const CAPACITY: u64 = 0x100;
    pub const THREADS: u64 = 0x108;
    /// Room for the handles that are found while threads are counted, and how many there are.
    pub const FOUND: u64 = 0x110;
    pub const FOUND_COUNT: u64 = 0x118;
    pub const STACKS: u64 = 0x120;
    pub const STACKS_END: u64 = 0x128;
    pub const CONTEXT: u64 = 0x130;
    /// `FLOOR`, `PROBE`.
    pub const FLAGS: u64 = 0x138;
    /// Id of the thread to probe.
    pub const ONLY: u64 = 0x140;
    /// 0: nothing is written yet; 1: the writes are being made; 2: the owner has given up. Changed by compare and exchange.
    pub const STATE: u64 = 0x148;
    /// Not 0 once the writes are made.
    pub const WRITTEN: u64 = 0x150;
    /// Ranges that no thread may be in (`FORBIDDEN_SIZE` each), and lowest and highest address of them all.
    pub const FORBIDDEN: u64 = 0x158;
    pub const FORBIDDEN_COUNT: u64 = 0x160;
    pub const LOW: u64 = 0x168;
    pub const HIGH: u64 = 0x170;
    /// Address, where the bytes lie, how many: 24 bytes each.
    pub const EXPECTED: u64 = 0x178;
    pub const EXPECTED_COUNT: u64 = 0x180;
    pub const WRITES: u64 = 0x188;
    pub const WRITE_COUNT: u64 = 0x190;
    /// Address, size, old protection, what is needed for closing: 32 bytes each.
    pub const PAGES: u64 = 0x198;
    pub const PAGE_COUNT: u64 = 0x1a0;
    /// What stands in the way: thread, address, index of the range; or index of the bytes that are others.
    pub const OUT_THREAD: u64 = 0x1a8;
    pub const OUT_ADDRESS: u64 = 0x1b0;
    pub const OUT_INDEX: u64 = 0x1b8;
    /// Ticks before the first thread was suspended and after the last was resumed.
    pub const START: u64 = 0x1c0;
    pub const END: u64 = 0x1c8;
    /// Threads that were looked at.
    pub const LOOKED: u64 = 0x1d0;
    pub const NEXT: u64 = 0x240;
    pub const SCRATCH: u64 = 0x1d8;
    /// THREAD_BASIC_INFORMATION: exit status, TEB, process, thread.
    pub const BASIC: u64 = 0x1e0;
    /// MEMORY_BASIC_INFORMATION.
    pub const MEMORY: u64 = 0x210;
}

/// Bits of the flags.
pub(super) mod flag {
    /// Stop and let go, nothing else: what any pause costs at least.
    pub const FLOOR: u64 = 1;
    /// Look at one thread only, and whether it is in a forbidden range.
    pub const PROBE: u64 = 2;
}

/// Answers that are neither success nor failure of a system call.
pub(super) mod status {
    /// The command is not done.
    pub const PENDING: u32 = 0x103;
    /// A thread is in a forbidden range.
    pub const IN_THE_WAY: u32 = 0x4000_0001;
    /// Bytes are not what they must be.
    pub const CHANGED: u32 = 0x4000_0002;
    /// The owner had given up before anything was written.
    pub const ABANDONED: u32 = 0xc000_0120;
}

/// A thread in the table.
pub(super) mod thread {
    /// Bytes of an entry.
    pub const SIZE: u64 = 0x100;
    pub const ID: usize = 0x08;
    pub const IP: usize = 0x10;
    pub const TEB: usize = 0x18;
    /// First copied byte of the stack (VA), number of copied bytes (0: not copied), where the copy lies (VA).
    pub const STACK: usize = 0x20;
    pub const STACK_SIZE: usize = 0x28;
    pub const COPY: usize = 0x30;
    /// 0: listed; 1: suspended; 2: it has ended.
    pub const STATE: usize = 0x38;
    pub const SP: usize = 0x40;
}

/// Bytes of a forbidden range: start, end, two addresses at which an instruction pointer does no harm, two at which a value
/// on a stack does none.
const FORBIDDEN_SIZE: u64 = 48;

/// Deepest stack that is scanned, bytes.
const MAX_STACK: u64 = 0x400_0000;

/// Functions of ntdll, in the order of their slots from `at::FUNCTIONS` on.
pub(super) const FUNCTIONS: [&str; 13] = [
    "NtWaitForMultipleObjects",
    "NtSetEvent",
    "NtGetNextThread",
    "NtSuspendThread",
    "NtResumeThread",
    "NtClose",
    "NtProtectVirtualMemory",
    "NtQueryInformationThread",
    "NtFlushInstructionCache",
    "NtGetContextThread",
    "NtQueryVirtualMemory",
    "RtlQueryPerformanceCounter",
    "RtlExitUserThread",
];

/// What the agent is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Command {
    /// Nothing: an answer shows that it runs.
    Hello = 1,
    /// Call a function.
    Call = 2,
    /// Stop all threads, check, write, let them go.
    Exchange = 3,
    /// Stop the threads one at a time: copy the stack of each, or see whether one is in the way.
    Look = 4,
    /// End.
    Exit = 5,
}

const fn slot(index: u64) -> u64 {
    at::FUNCTIONS + index * 8
}

global_asm!(
    include_str!("agent.s"),
    ABANDONED = const status::ABANDONED,
    ARGUMENTS = const at::ARGUMENTS,
    BASIC = const at::BASIC,
    CAPACITY = const at::CAPACITY,
    CHANGED = const status::CHANGED,
    COMMAND = const at::COMMAND,
    CONTEXT = const at::CONTEXT,
    COUNT = const at::COUNT,
    END = const at::END,
    EXPECTED = const at::EXPECTED,
    EXPECTED_COUNT = const at::EXPECTED_COUNT,
    FLAGS = const at::FLAGS,
    FLOOR = const flag::FLOOR,
    FORBIDDEN = const at::FORBIDDEN,
    FORBIDDEN_COUNT = const at::FORBIDDEN_COUNT,
    FORBIDDEN_SIZE = const FORBIDDEN_SIZE,
    FOUND = const at::FOUND,
    FOUND_COUNT = const at::FOUND_COUNT,
    FUNCTION = const at::FUNCTION,
    HIGH = const at::HIGH,
    IN_THE_WAY = const status::IN_THE_WAY,
    LOOKED = const at::LOOKED,
    LOW = const at::LOW,
    MAX_STACK = const MAX_STACK,
    MEMORY = const at::MEMORY,
    NEXT = const at::NEXT,
    ONLY = const at::ONLY,
    OUT_ADDRESS = const at::OUT_ADDRESS,
    OUT_INDEX = const at::OUT_INDEX,
    OUT_THREAD = const at::OUT_THREAD,
    OWNER = const at::OWNER,
    PAGES = const at::PAGES,
    PAGE_COUNT = const at::PAGE_COUNT,
    PROBE = const flag::PROBE,
    REPLY = const at::REPLY,
    REQUEST = const at::REQUEST,
    RESULT = const at::RESULT,
    SCRATCH = const at::SCRATCH,
    STACKS = const at::STACKS,
    STACKS_END = const at::STACKS_END,
    START = const at::START,
    STATE = const at::STATE,
    STATUS = const at::STATUS,
    THREADS = const at::THREADS,
    THREAD_SIZE = const thread::SIZE,
    T_COPY = const thread::COPY,
    T_ID = const thread::ID,
    T_IP = const thread::IP,
    T_SP = const thread::SP,
    T_STACK = const thread::STACK,
    T_STACK_SIZE = const thread::STACK_SIZE,
    T_STATE = const thread::STATE,
    T_TEB = const thread::TEB,
    WRITES = const at::WRITES,
    WRITE_COUNT = const at::WRITE_COUNT,
    WRITTEN = const at::WRITTEN,
    clock = const slot(11),
    close = const slot(5),
    context = const slot(9),
    exit = const slot(12),
    flush = const slot(8),
    next_thread = const slot(2),
    protect = const slot(6),
    query_memory = const slot(10),
    query_thread = const slot(7),
    resume = const slot(4),
    set_event = const slot(1),
    suspend = const slot(3),
    wait = const slot(0),
);

unsafe extern "C" {
    static hotgraft_agent_begin: u8;
    static hotgraft_agent_end: u8;
}

/// The agent's code; its entry is the first byte.
pub(super) fn code() -> Vec<u8> {
    // SAFETY: both symbols bound the code above, which is read only.
    unsafe {
        let begin = &raw const hotgraft_agent_begin;
        let size = (&raw const hotgraft_agent_end).offset_from(begin) as usize;
        std::slice::from_raw_parts(begin, size).to_vec()
    }
}
