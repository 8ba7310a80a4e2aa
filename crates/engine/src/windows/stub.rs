//! The agent's code: a few hundred bytes that run as a thread of the target.
//!
//! Whoever suspends the threads of another process leaves them suspended when it is killed. So it is the target itself
//! that suspends, writes and resumes: a thread in it takes commands through a block of memory and two events, and when
//! the process that gives the commands is gone, it lets the threads go and ends. The writes of a commit are made by this
//! thread alone, all of them or none.
//!
//! Written in assembler because it must be position independent, must call nothing but system calls (any other function
//! could wait for a lock that a suspended thread holds), and is copied byte for byte.
#![allow(unsafe_code, reason = "refers to the bounds of assembled code")]

use std::arch::global_asm;

/// Offsets in the block.
pub(super) mod at {
    /// The command (4 bytes), behind it the status of the last one (4 bytes).
    pub const COMMAND: u64 = 0x00;
    pub const COUNT: u64 = 0x08;
    pub const REQUEST: u64 = 0x10;
    pub const OWNER: u64 = 0x18;
    pub const REPLY: u64 = 0x20;
    pub const FUNCTION: u64 = 0x30;
    pub const ARGUMENTS: u64 = 0x38;
    pub const RESULT: u64 = 0x68;
    pub const FUNCTIONS: u64 = 0x70;
    pub const PAGE_COUNT: u64 = 0xb8;
    pub const WRITE_COUNT: u64 = 0xc0;
    pub const CAPACITY: u64 = 0xc8;
    pub const PAGES: u64 = 0x120;
    pub const WRITES: u64 = 0x128;
    pub const THREADS: u64 = 0x130;
    pub const STACKS: u64 = 0x138;
    pub const STACKS_END: u64 = 0x140;
    pub const CONTEXT: u64 = 0x148;
}

/// A thread in the table of suspended threads.
pub(super) mod thread {
    /// Bytes of an entry.
    pub const SIZE: u64 = 0x100;
    pub const ID: usize = 0x08;
    pub const IP: usize = 0x10;
    /// First copied byte of the stack (VA), number of copied bytes (0: not copied), where the copy lies (VA).
    pub const STACK: usize = 0x20;
    pub const STACK_SIZE: usize = 0x28;
    pub const COPY: usize = 0x30;
    /// The sixteen integer registers by their number in encodings.
    pub const REGISTERS: usize = 0x40;
}

/// Functions of ntdll, in the order of their slots from `at::FUNCTIONS` on.
pub(super) const FUNCTIONS: [&str; 9] = [
    "NtWaitForMultipleObjects",
    "NtSetEvent",
    "NtGetNextThread",
    "NtSuspendThread",
    "NtResumeThread",
    "NtClose",
    "NtProtectVirtualMemory",
    "NtQueryInformationThread",
    "RtlExitUserThread",
];
/// Two more, behind the counts.
pub(super) const MORE_FUNCTIONS: [(&str, u64); 2] = [("NtFlushInstructionCache", 0x110), ("NtGetContextThread", 0x118)];

/// What the agent is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Command {
    Suspend = 1,
    Commit = 2,
    Resume = 3,
    Call = 4,
    Exit = 5,
}

// rbx: the block. Every call follows the x64 convention; the frame holds the shadow space and two stack arguments.
global_asm!(
    ".globl hotgraft_agent_begin",
    ".globl hotgraft_agent_end",
    "hotgraft_agent_begin:",
    "push rbx",
    "push rsi",
    "push rdi",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 0x40",
    "mov rbx, rcx",
    // Wait for a request or for the end of the owner. The request comes first where both are there.
    "2:",
    "mov ecx, 2",
    "lea rdx, [rbx + 0x10]",
    "mov r8d, 1",
    "xor r9d, r9d",
    "mov qword ptr [rsp + 0x20], 0",
    "call [rbx + 0x70]",
    "test eax, eax",
    "jnz 90f",
    "mov eax, [rbx]",
    "cmp eax, 1",
    "je 17f",
    "cmp eax, 2",
    "je 30f",
    "cmp eax, 3",
    "je 50f",
    "cmp eax, 4",
    "je 60f",
    "cmp eax, 5",
    "je 90f",
    "mov dword ptr [rbx + 4], 0xc0000002",
    // Reply.
    "3:",
    "mov rcx, [rbx + 0x20]",
    "xor edx, edx",
    "call [rbx + 0x78]",
    "jmp 2b",
    //
    // Suspend: pass after pass over the threads until one finds nothing new.
    // r12: found in this pass; r13: cursor; r14: the cursor is not kept and must be closed.
    "17:",
    "mov qword ptr [rbx + 8], 0",
    "18:",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "12:",
    "mov rcx, -1",
    "mov rdx, r13",
    "mov r8d, 0x4a",
    "xor r9d, r9d",
    "mov qword ptr [rsp + 0x20], 0",
    "lea rax, [rbx + 0x28]",
    "mov [rsp + 0x28], rax",
    "call [rbx + 0x80]",
    "mov esi, eax",
    "test r14d, r14d",
    "jz 13f",
    "mov rcx, r13",
    "call [rbx + 0x98]",
    "13:",
    "test esi, esi",
    "js 20f",
    "mov r13, [rbx + 0x28]",
    "mov r14d, 1",
    // Which thread is it?
    "call 80f",
    "test eax, eax",
    "js 22f",
    "mov rax, [rbx + 0xe8]",
    "cmp rax, gs:[0x48]",
    "je 12b",
    "mov rcx, [rbx + 8]",
    "mov rdx, [rbx + 0x130]",
    "14:",
    "test rcx, rcx",
    "jz 15f",
    "cmp [rdx + 8], rax",
    "je 12b",
    "add rdx, 0x100",
    "dec rcx",
    "jmp 14b",
    "15:",
    "mov rcx, [rbx + 8]",
    "cmp rcx, [rbx + 0xc8]",
    "mov eax, 0xc0000023",
    "jae 22f",
    "mov rcx, r13",
    "lea rdx, [rbx + 0x100]",
    "call [rbx + 0x88]",
    "test eax, eax",
    "jns 16f",
    // A thread that ends runs no more code: STATUS_THREAD_IS_TERMINATING, or an exit status other than pending.
    "cmp eax, 0xc000004b",
    "je 12b",
    "mov edi, eax",
    "call 80f",
    "test eax, eax",
    "js 12b",
    "cmp dword ptr [rbx + 0xd0], 0x103",
    "jne 12b",
    "mov eax, edi",
    "jmp 22f",
    "16:",
    "mov rcx, [rbx + 8]",
    "mov rdx, rcx",
    "shl rdx, 8",
    "add rdx, [rbx + 0x130]",
    "mov [rdx], r13",
    "mov rax, [rbx + 0xe8]",
    "mov [rdx + 8], rax",
    "mov rax, [rbx + 0xd8]",
    "mov [rdx + 0x18], rax",
    "inc rcx",
    "mov [rbx + 8], rcx",
    "inc r12d",
    "xor r14d, r14d",
    "jmp 12b",
    // End of a pass.
    "20:",
    "xor r14d, r14d",
    "mov eax, esi",
    "cmp esi, 0x8000001a",
    "jne 22f",
    "test r12d, r12d",
    "jnz 18b",
    // Look at each: registers, and a copy of its stack. The system waits here until the thread really stands.
    // r12: entry; r13: index; r14: end of the copies.
    "mov r12, [rbx + 0x130]",
    "xor r13d, r13d",
    "mov r14, [rbx + 0x138]",
    "24:",
    "cmp r13, [rbx + 8]",
    "jae 29f",
    "mov rdx, [rbx + 0x148]",
    "mov dword ptr [rdx + 0x30], 0x100003",
    "mov rcx, [r12]",
    "call [rbx + 0x118]",
    "test eax, eax",
    "js 28f",
    "mov rsi, [rbx + 0x148]",
    "mov rax, [rsi + 0xf8]",
    "mov [r12 + 0x10], rax",
    "add rsi, 0x78",
    "lea rdi, [r12 + 0x40]",
    "mov ecx, 16",
    "cld",
    "rep movsq",
    "mov qword ptr [r12 + 0x28], 0",
    // A stack pointer outside the thread's own stack: left to the owner.
    "mov rdx, [r12 + 0x18]",
    "mov rax, [r12 + 0x60]",
    "and rax, -8",
    "cmp rax, [rdx + 0x10]",
    "jb 27f",
    "mov rcx, [rdx + 8]",
    "sub rcx, rax",
    "jbe 27f",
    "and rcx, -8",
    "mov rdx, [rbx + 0x140]",
    "sub rdx, r14",
    "cmp rcx, rdx",
    "ja 27f",
    "mov [r12 + 0x20], rax",
    "mov [r12 + 0x28], rcx",
    "mov [r12 + 0x30], r14",
    "mov rsi, rax",
    "mov rdi, r14",
    "add r14, rcx",
    "shr rcx, 3",
    "rep movsq",
    "27:",
    "add r12, 0x100",
    "inc r13",
    "jmp 24b",
    "28:",
    "xor r14d, r14d",
    "jmp 22f",
    "29:",
    "mov dword ptr [rbx + 4], 0",
    "jmp 3b",
    // Failed with eax: let go of everything.
    "22:",
    "mov [rbx + 4], eax",
    "test r14d, r14d",
    "jz 23f",
    "mov rcx, r13",
    "call [rbx + 0x98]",
    "23:",
    "call 70f",
    "call 74f",
    "jmp 3b",
    //
    // Commit: open every page or none; write; close. r13: opened; r14: status.
    "30:",
    "mov rsi, [rbx + 0x120]",
    "mov r12, [rbx + 0xb8]",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "31:",
    "cmp r13, r12",
    "je 33f",
    "mov rcx, -1",
    "mov rdx, rsi",
    "lea r8, [rsi + 8]",
    "mov r9d, 4",
    "lea rax, [rsi + 16]",
    "mov [rsp + 0x20], rax",
    "call [rbx + 0xa0]",
    "test eax, eax",
    "js 32f",
    "inc r13",
    "add rsi, 32",
    "jmp 31b",
    "32:",
    "mov r14d, eax",
    "jmp 35f",
    "33:",
    "mov r15, [rbx + 0x128]",
    "mov rax, [rbx + 0xc0]",
    "cld",
    "34:",
    "test rax, rax",
    "jz 35f",
    "mov rdi, [r15]",
    "mov rsi, [r15 + 8]",
    "mov rcx, [r15 + 16]",
    "rep movsb",
    "add r15, 24",
    "dec rax",
    "jmp 34b",
    "35:",
    "mov rsi, [rbx + 0x120]",
    "36:",
    "test r13, r13",
    "jz 38f",
    "mov rcx, -1",
    "mov rdx, rsi",
    "lea r8, [rsi + 8]",
    "mov r9d, [rsi + 16]",
    "lea rax, [rsi + 24]",
    "mov [rsp + 0x20], rax",
    "call [rbx + 0xa0]",
    "test eax, eax",
    "jns 37f",
    "mov r14d, eax",
    "37:",
    "dec r13",
    "add rsi, 32",
    "jmp 36b",
    "38:",
    "mov rcx, -1",
    "xor edx, edx",
    "xor r8d, r8d",
    "call [rbx + 0x110]",
    "mov [rbx + 4], r14d",
    "jmp 3b",
    //
    // Resume.
    "50:",
    "call 70f",
    "mov dword ptr [rbx + 4], 0",
    "mov rcx, [rbx + 0x20]",
    "xor edx, edx",
    "call [rbx + 0x78]",
    "call 74f",
    "jmp 2b",
    //
    // Call a function with up to six arguments.
    "60:",
    "mov rax, [rbx + 0x58]",
    "mov [rsp + 0x20], rax",
    "mov rax, [rbx + 0x60]",
    "mov [rsp + 0x28], rax",
    "mov rcx, [rbx + 0x38]",
    "mov rdx, [rbx + 0x40]",
    "mov r8, [rbx + 0x48]",
    "mov r9, [rbx + 0x50]",
    "call [rbx + 0x30]",
    "mov [rbx + 0x68], rax",
    "mov dword ptr [rbx + 4], 0",
    "jmp 3b",
    //
    // Subroutine: resume every thread in the table. Handles are closed afterwards, when nobody waits any more.
    "70:",
    "sub rsp, 0x28",
    "xor edi, edi",
    "mov rsi, [rbx + 0x130]",
    "71:",
    "cmp rdi, [rbx + 8]",
    "jae 72f",
    "mov rcx, [rsi]",
    "lea rdx, [rbx + 0x100]",
    "call [rbx + 0x90]",
    "add rsi, 0x100",
    "inc rdi",
    "jmp 71b",
    "72:",
    "add rsp, 0x28",
    "ret",
    //
    // Subroutine: close the handles in the table and empty it.
    "74:",
    "sub rsp, 0x28",
    "75:",
    "mov rax, [rbx + 8]",
    "test rax, rax",
    "jz 76f",
    "dec rax",
    "mov [rbx + 8], rax",
    "shl rax, 8",
    "add rax, [rbx + 0x130]",
    "mov rcx, [rax]",
    "call [rbx + 0x98]",
    "jmp 75b",
    "76:",
    "add rsp, 0x28",
    "ret",
    //
    // Subroutine: THREAD_BASIC_INFORMATION of r13 to block + 0xd0; status in eax.
    "80:",
    "sub rsp, 0x28",
    "mov rcx, r13",
    "xor edx, edx",
    "lea r8, [rbx + 0xd0]",
    "mov r9d, 48",
    "mov qword ptr [rsp + 0x20], 0",
    "call [rbx + 0xa8]",
    "add rsp, 0x28",
    "ret",
    //
    // The end: by command, or because the owner is gone.
    "90:",
    "call 70b",
    "call 74b",
    "mov rcx, [rbx + 0x10]",
    "call [rbx + 0x98]",
    "mov rcx, [rbx + 0x18]",
    "call [rbx + 0x98]",
    "mov rcx, [rbx + 0x20]",
    "call [rbx + 0x98]",
    "xor ecx, ecx",
    "call [rbx + 0xb0]",
    "int3",
    "hotgraft_agent_end:",
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
