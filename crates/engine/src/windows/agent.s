// The agent's code. `stub.rs` says what it is for, and gives the names in braces.
//
// rbx: the block. Every call follows the x64 convention; the main frame holds the shadow space and two stack arguments,
// subroutines have frames of their own.

.globl hotgraft_agent_begin
.globl hotgraft_agent_end
hotgraft_agent_begin:
    push rbx
    push rsi
    push rdi
    push r12
    push r13
    push r14
    push r15
    sub rsp, 0x40
    mov rbx, rcx
// Wait for a request or for the end of the owner. The request comes first where both are there.
.Lhotgraft_next:
    mov ecx, 2
    lea rdx, [rbx + {REQUEST}]
    mov r8d, 1
    xor r9d, r9d
    mov qword ptr [rsp + 0x20], 0
    call [rbx + {wait}]
    test eax, eax
    jnz .Lhotgraft_end
    xor r14d, r14d
    mov eax, [rbx + {COMMAND}]
    cmp eax, 1
    je .Lhotgraft_reply
    cmp eax, 2
    je .Lhotgraft_call
    cmp eax, 3
    je .Lhotgraft_exchange
    cmp eax, 4
    je .Lhotgraft_look
    cmp eax, 5
    je .Lhotgraft_end
    mov r14d, 0xc0000002
// Reply with r14d.
.Lhotgraft_reply:
    mov [rbx + {STATUS}], r14d
    mov rcx, [rbx + {REPLY}]
    xor edx, edx
    call [rbx + {set_event}]
    jmp .Lhotgraft_next

// Call a function with up to six arguments.
.Lhotgraft_call:
    mov rax, [rbx + {ARGUMENTS} + 32]
    mov [rsp + 0x20], rax
    mov rax, [rbx + {ARGUMENTS} + 40]
    mov [rsp + 0x28], rax
    mov rcx, [rbx + {ARGUMENTS}]
    mov rdx, [rbx + {ARGUMENTS} + 8]
    mov r8, [rbx + {ARGUMENTS} + 16]
    mov r9, [rbx + {ARGUMENTS} + 24]
    call [rbx + {FUNCTION}]
    mov [rbx + {RESULT}], rax
    jmp .Lhotgraft_reply

// Exchange. The threads are listed before the first one is stopped.
.Lhotgraft_exchange:
    xor r15d, r15d
    call .Lhotgraft_enter
    test eax, eax
    js .Lhotgraft_let_go
    lea rcx, [rbx + {START}]
    call [rbx + {clock}]
// r12: entry; r13: index; r15d: suspended.
    mov r12, [rbx + {THREADS}]
    xor r13d, r13d
    xor r15d, r15d
.Lhotgraft_stop:
    cmp r13, [rbx + {COUNT}]
    jae .Lhotgraft_stopped
    call .Lhotgraft_suspend
    test eax, eax
    js .Lhotgraft_let_go
    add r15d, eax
    add r12, {THREAD_SIZE}
    inc r13
    jmp .Lhotgraft_stop
.Lhotgraft_stopped:
    test dword ptr [rbx + {FLAGS}], {FLOOR}
    jnz .Lhotgraft_where
// All of these live. If the process has as many threads, and this one, there is no other. Else there are new ones, or
// some that end: then each is looked at, until a pass finds none that is new.
    call .Lhotgraft_count
    test eax, eax
    js .Lhotgraft_let_go
    inc r15d
    cmp eax, r15d
    je .Lhotgraft_where
    mov r15d, 1
    call .Lhotgraft_enter
    test eax, eax
    js .Lhotgraft_let_go
// Registers and stack of each. The system waits here until the thread really stands.
.Lhotgraft_where:
    mov r12, [rbx + {THREADS}]
    xor r13d, r13d
.Lhotgraft_check:
    cmp r13, [rbx + {COUNT}]
    jae .Lhotgraft_checked
    cmp dword ptr [r12 + {T_STATE}], 1
    jne .Lhotgraft_check_next
    call .Lhotgraft_registers
    test eax, eax
    js .Lhotgraft_let_go
    jnz .Lhotgraft_check_next
    test dword ptr [rbx + {FLAGS}], {FLOOR}
    jnz .Lhotgraft_check_next
    call .Lhotgraft_in_the_way
    test eax, eax
    jnz .Lhotgraft_let_go
.Lhotgraft_check_next:
    add r12, {THREAD_SIZE}
    inc r13
    jmp .Lhotgraft_check
.Lhotgraft_checked:
    xor eax, eax
    test dword ptr [rbx + {FLAGS}], {FLOOR}
    jnz .Lhotgraft_let_go
// The bytes that must be there. Their image may have been unloaded meanwhile.
    mov r12, [rbx + {EXPECTED}]
    xor r13d, r13d
.Lhotgraft_compare:
    cmp r13, [rbx + {EXPECTED_COUNT}]
    jae .Lhotgraft_write
    mov rdx, [r12]
    call .Lhotgraft_readable
    test eax, eax
    jnz .Lhotgraft_changed
    mov rdx, [r12]
    add rdx, [r12 + 16]
    dec rdx
    call .Lhotgraft_readable
    test eax, eax
    jnz .Lhotgraft_changed
    mov rdi, [r12]
    mov rsi, [r12 + 8]
    mov rcx, [r12 + 16]
    cld
    cmp rcx, rcx
    repe cmpsb
    jne .Lhotgraft_changed
    add r12, 24
    inc r13
    jmp .Lhotgraft_compare
.Lhotgraft_changed:
    mov [rbx + {OUT_INDEX}], r13
    mov eax, {CHANGED}
    jmp .Lhotgraft_let_go
// From here on the owner cannot give up any more. Open every page or none; write; close. r13: opened; r15d: status.
.Lhotgraft_write:
    mov ecx, 1
    xor eax, eax
    lock cmpxchg [rbx + {STATE}], ecx
    mov eax, {ABANDONED}
    jne .Lhotgraft_let_go
    mov r12, [rbx + {PAGES}]
    xor r13d, r13d
    xor r15d, r15d
.Lhotgraft_open:
    cmp r13, [rbx + {PAGE_COUNT}]
    je .Lhotgraft_opened
    mov rcx, -1
    mov rdx, r12
    lea r8, [r12 + 8]
    mov r9d, 4
    lea rax, [r12 + 16]
    mov [rsp + 0x20], rax
    call [rbx + {protect}]
    mov r15d, eax
    test eax, eax
    js .Lhotgraft_close
    inc r13
    add r12, 32
    jmp .Lhotgraft_open
.Lhotgraft_opened:
    mov r12, [rbx + {WRITES}]
    mov rax, [rbx + {WRITE_COUNT}]
    cld
.Lhotgraft_copy:
    test rax, rax
    jz .Lhotgraft_written
    mov rdi, [r12]
    mov rsi, [r12 + 8]
    mov rcx, [r12 + 16]
    rep movsb
    add r12, 24
    dec rax
    jmp .Lhotgraft_copy
.Lhotgraft_written:
    mov dword ptr [rbx + {WRITTEN}], 1
.Lhotgraft_close:
    mov r12, [rbx + {PAGES}]
.Lhotgraft_close_next:
    test r13, r13
    jz .Lhotgraft_flush
// A page that does not close is tried again: there is code on it that must be executable.
    mov edi, 64
.Lhotgraft_close_page:
    mov rcx, -1
    mov rdx, r12
    lea r8, [r12 + 8]
    mov r9d, [r12 + 16]
    lea rax, [r12 + 24]
    mov [rsp + 0x20], rax
    call [rbx + {protect}]
    test eax, eax
    jns .Lhotgraft_closed
    dec edi
    jnz .Lhotgraft_close_page
    mov r15d, eax
.Lhotgraft_closed:
    add r12, 32
    dec r13
    jmp .Lhotgraft_close_next
.Lhotgraft_flush:
    mov rcx, -1
    xor edx, edx
    xor r8d, r8d
    call [rbx + {flush}]
    mov eax, r15d
// Let go of everything and answer with eax. Handles are closed when nobody waits any more.
.Lhotgraft_let_go:
    mov r14d, eax
    call .Lhotgraft_resume
    lea rcx, [rbx + {END}]
    call [rbx + {clock}]
    call .Lhotgraft_forget
    jmp .Lhotgraft_reply

// Look at the threads, one at a time. r12: entry; r13: index; r15: end of the copies.
.Lhotgraft_look:
    xor r15d, r15d
    call .Lhotgraft_enter
    test eax, eax
    js .Lhotgraft_let_go
    mov r12, [rbx + {THREADS}]
    xor r13d, r13d
    mov r15, [rbx + {STACKS}]
.Lhotgraft_look_at:
    cmp r13, [rbx + {COUNT}]
    jae .Lhotgraft_looked_at_all
    test dword ptr [rbx + {FLAGS}], {PROBE}
    jz .Lhotgraft_look_stop
    mov rax, [rbx + {ONLY}]
    cmp rax, [r12 + {T_ID}]
    jne .Lhotgraft_look_next
.Lhotgraft_look_stop:
    call .Lhotgraft_suspend
    test eax, eax
    js .Lhotgraft_let_go
    jz .Lhotgraft_look_next
    call .Lhotgraft_registers
    test eax, eax
    js .Lhotgraft_let_go
    jnz .Lhotgraft_look_next
    test dword ptr [rbx + {FLAGS}], {PROBE}
    jz .Lhotgraft_look_copy
    call .Lhotgraft_in_the_way
    test eax, eax
    jnz .Lhotgraft_let_go
    jmp .Lhotgraft_look_resume
.Lhotgraft_look_copy:
    call .Lhotgraft_stack
    test eax, eax
    js .Lhotgraft_look_resume
    mov rcx, r9
    sub rcx, r8
    mov rax, [rbx + {STACKS_END}]
    sub rax, r15
    cmp rcx, rax
    ja .Lhotgraft_look_resume
    mov [r12 + {T_STACK}], r8
    mov [r12 + {T_STACK_SIZE}], rcx
    mov [r12 + {T_COPY}], r15
    mov rsi, r8
    mov rdi, r15
    add r15, rcx
    shr rcx, 3
    cld
    rep movsq
.Lhotgraft_look_resume:
    mov dword ptr [r12 + {T_STATE}], 0
    mov rcx, [r12]
    lea rdx, [rbx + {SCRATCH}]
    call [rbx + {resume}]
.Lhotgraft_look_next:
    add r12, {THREAD_SIZE}
    inc r13
    jmp .Lhotgraft_look_at
.Lhotgraft_looked_at_all:
    mov [rbx + {LOOKED}], r13
    xor eax, eax
    jmp .Lhotgraft_let_go

// Subroutine: go over the threads and enter those that are not in the table. r15d 0: one pass, nothing is suspended;
// 1: each is suspended, pass after pass until one finds none that is new. Status in eax.
// r12: found in this pass; r13: cursor; r14: the cursor is not kept and must be closed.
.Lhotgraft_enter:
    sub rsp, 0x38
.Lhotgraft_pass:
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
.Lhotgraft_pass_next:
    call .Lhotgraft_next_thread
    mov esi, eax
    test r14d, r14d
    jz .Lhotgraft_pass_found
    mov rcx, r13
    call [rbx + {close}]
.Lhotgraft_pass_found:
    test esi, esi
    js .Lhotgraft_pass_end
    mov r13, [rbx + {NEXT}]
    mov r14d, 1
    mov rcx, r13
    call .Lhotgraft_thread
    test eax, eax
    js .Lhotgraft_enter_end
    mov rax, [rbx + {BASIC} + 24]
    cmp rax, gs:[0x48]
    je .Lhotgraft_pass_next
    mov rcx, [rbx + {COUNT}]
    mov rdx, [rbx + {THREADS}]
.Lhotgraft_pass_known:
    test rcx, rcx
    jz .Lhotgraft_pass_new
    cmp [rdx + {T_ID}], rax
    je .Lhotgraft_pass_next
    add rdx, {THREAD_SIZE}
    dec rcx
    jmp .Lhotgraft_pass_known
.Lhotgraft_pass_new:
    mov rcx, [rbx + {COUNT}]
    cmp rcx, [rbx + {CAPACITY}]
    mov eax, 0xc0000023
    jae .Lhotgraft_enter_end
    mov [rdx], r13
    mov rax, [rbx + {BASIC} + 24]
    mov [rdx + {T_ID}], rax
    mov rax, [rbx + {BASIC} + 8]
    mov [rdx + {T_TEB}], rax
    mov qword ptr [rdx + {T_STACK_SIZE}], 0
    mov qword ptr [rdx + {T_STATE}], 0
    inc rcx
    mov [rbx + {COUNT}], rcx
    xor r14d, r14d
    test r15d, r15d
    jz .Lhotgraft_pass_next
    mov [rsp + 0x30], r12
    mov r12, rdx
    call .Lhotgraft_suspend
    mov r12, [rsp + 0x30]
    test eax, eax
    js .Lhotgraft_enter_end
    add r12d, eax
    jmp .Lhotgraft_pass_next
.Lhotgraft_pass_end:
    xor r14d, r14d
    mov eax, esi
    cmp esi, 0x8000001a
    jne .Lhotgraft_enter_end
    xor eax, eax
    test r15d, r15d
    jz .Lhotgraft_enter_end
    test r12d, r12d
    jnz .Lhotgraft_pass
.Lhotgraft_enter_end:
    mov [rsp + 0x30], eax
    test r14d, r14d
    jz .Lhotgraft_enter_return
    mov rcx, r13
    call [rbx + {close}]
.Lhotgraft_enter_return:
    mov eax, [rsp + 0x30]
    add rsp, 0x38
    ret

// Subroutine: count the threads of the process. Their handles are closed later. Count, or a failure, in eax.
.Lhotgraft_count:
    sub rsp, 0x28
    xor r13d, r13d
.Lhotgraft_count_next:
    call .Lhotgraft_next_thread
    cmp eax, 0x8000001a
    je .Lhotgraft_counted
    test eax, eax
    js .Lhotgraft_count_end
    mov r13, [rbx + {NEXT}]
    mov rcx, [rbx + {FOUND_COUNT}]
    cmp rcx, [rbx + {CAPACITY}]
    jae .Lhotgraft_count_full
    mov rdx, [rbx + {FOUND}]
    mov [rdx + rcx * 8], r13
    inc rcx
    mov [rbx + {FOUND_COUNT}], rcx
    jmp .Lhotgraft_count_next
.Lhotgraft_count_full:
    mov rcx, r13
    call [rbx + {close}]
    mov eax, 0xc0000023
    jmp .Lhotgraft_count_end
.Lhotgraft_counted:
    mov eax, [rbx + {FOUND_COUNT}]
.Lhotgraft_count_end:
    add rsp, 0x28
    ret

// Subroutine: resume every suspended thread in the table.
.Lhotgraft_resume:
    sub rsp, 0x28
    xor edi, edi
    mov rsi, [rbx + {THREADS}]
.Lhotgraft_resume_at:
    cmp rdi, [rbx + {COUNT}]
    jae .Lhotgraft_resume_end
    cmp dword ptr [rsi + {T_STATE}], 1
    jne .Lhotgraft_resume_next
    mov rcx, [rsi]
    lea rdx, [rbx + {SCRATCH}]
    call [rbx + {resume}]
.Lhotgraft_resume_next:
    add rsi, {THREAD_SIZE}
    inc rdi
    jmp .Lhotgraft_resume_at
.Lhotgraft_resume_end:
    add rsp, 0x28
    ret

// Subroutine: close the handles in the table and those that were found, and empty both.
.Lhotgraft_forget:
    sub rsp, 0x28
.Lhotgraft_forget_next:
    mov rax, [rbx + {COUNT}]
    test rax, rax
    jz .Lhotgraft_forget_found
    dec rax
    mov [rbx + {COUNT}], rax
    imul rax, rax, {THREAD_SIZE}
    add rax, [rbx + {THREADS}]
    mov rcx, [rax]
    call [rbx + {close}]
    jmp .Lhotgraft_forget_next
.Lhotgraft_forget_found:
    mov rax, [rbx + {FOUND_COUNT}]
    test rax, rax
    jz .Lhotgraft_forget_end
    dec rax
    mov [rbx + {FOUND_COUNT}], rax
    mov rdx, [rbx + {FOUND}]
    mov rcx, [rdx + rax * 8]
    call [rbx + {close}]
    jmp .Lhotgraft_forget_found
.Lhotgraft_forget_end:
    add rsp, 0x28
    ret

// Subroutine: suspend the thread of the entry r12. eax 1: it is; 0: it has ended and runs no more code; or a failure.
.Lhotgraft_suspend:
    sub rsp, 0x28
    mov rcx, [r12]
    lea rdx, [rbx + {SCRATCH}]
    call [rbx + {suspend}]
    test eax, eax
    js .Lhotgraft_suspend_failed
    mov dword ptr [r12 + {T_STATE}], 1
    mov eax, 1
    jmp .Lhotgraft_suspend_end
.Lhotgraft_suspend_failed:
    call .Lhotgraft_ended
.Lhotgraft_suspend_end:
    add rsp, 0x28
    ret

// Subroutine: THREAD_BASIC_INFORMATION of rcx; status in eax.
.Lhotgraft_thread:
    sub rsp, 0x28
    xor edx, edx
    lea r8, [rbx + {BASIC}]
    mov r9d, 48
    mov qword ptr [rsp + 0x20], 0
    call [rbx + {query_thread}]
    add rsp, 0x28
    ret

// Subroutine: instruction and stack pointer of the thread of r12. eax 0: got; 1: it has ended; or a failure.
.Lhotgraft_registers:
    sub rsp, 0x28
    mov rdx, [rbx + {CONTEXT}]
    mov dword ptr [rdx + 0x30], 0x100001
    mov rcx, [r12]
    call [rbx + {context}]
    test eax, eax
    js .Lhotgraft_registers_failed
    mov rdx, [rbx + {CONTEXT}]
    mov rax, [rdx + 0xf8]
    mov [r12 + {T_IP}], rax
    mov rax, [rdx + 0x98]
    mov [r12 + {T_SP}], rax
    xor eax, eax
    jmp .Lhotgraft_registers_end
.Lhotgraft_registers_failed:
    call .Lhotgraft_ended
    test eax, eax
    js .Lhotgraft_registers_end
    mov eax, 1
.Lhotgraft_registers_end:
    add rsp, 0x28
    ret

// Subroutine: is the thread of r12 in a forbidden range? eax 0: no; `IN_THE_WAY`; or a failure.
// Every word of its stack counts as a return address.
.Lhotgraft_in_the_way:
    sub rsp, 0x28
    mov rax, [r12 + {T_IP}]
    mov r10d, 16
    call .Lhotgraft_forbidden
    jc .Lhotgraft_way_found
    call .Lhotgraft_stack
    test eax, eax
    js .Lhotgraft_way_end
    mov rcx, [rbx + {LOW}]
    mov rdx, [rbx + {HIGH}]
    mov r10d, 32
.Lhotgraft_way_word:
    xor eax, eax
    cmp r8, r9
    jae .Lhotgraft_way_end
    mov rax, [r8]
    add r8, 8
    cmp rax, rcx
    jb .Lhotgraft_way_word
    cmp rax, rdx
    jae .Lhotgraft_way_word
    call .Lhotgraft_forbidden
    jnc .Lhotgraft_way_word
.Lhotgraft_way_found:
    mov [rbx + {OUT_ADDRESS}], rax
    mov [rbx + {OUT_INDEX}], rdi
    mov rax, [r12 + {T_ID}]
    mov [rbx + {OUT_THREAD}], rax
    mov eax, {IN_THE_WAY}
.Lhotgraft_way_end:
    add rsp, 0x28
    ret

// Subroutine: the forbidden range that holds rax, unless rax is one of its two harmless values, which lie r10 bytes into its
// entry. Carry: there is one, its index in rdi. Changes rsi.
.Lhotgraft_forbidden:
    mov rsi, [rbx + {FORBIDDEN}]
    xor edi, edi
.Lhotgraft_forbidden_range:
    cmp rdi, [rbx + {FORBIDDEN_COUNT}]
    jae .Lhotgraft_forbidden_none
    cmp rax, [rsi]
    jb .Lhotgraft_forbidden_next
    cmp rax, [rsi + 8]
    jae .Lhotgraft_forbidden_next
    cmp rax, [rsi + r10]
    je .Lhotgraft_forbidden_next
    cmp rax, [rsi + r10 + 8]
    jne .Lhotgraft_forbidden_found
.Lhotgraft_forbidden_next:
    add rsi, {FORBIDDEN_SIZE}
    inc rdi
    jmp .Lhotgraft_forbidden_range
.Lhotgraft_forbidden_none:
    clc
    ret
.Lhotgraft_forbidden_found:
    stc
    ret

// Subroutine: can the byte at rdx be read? eax 0: yes. What lies around it: in the block.
.Lhotgraft_readable:
    sub rsp, 0x38
    mov rcx, -1
    xor r8d, r8d
    lea r9, [rbx + {MEMORY}]
    mov qword ptr [rsp + 0x20], 48
    mov qword ptr [rsp + 0x28], 0
    call [rbx + {query_memory}]
    test eax, eax
    jnz .Lhotgraft_readable_end
    cmp dword ptr [rbx + {MEMORY} + 32], 0x1000
    jne .Lhotgraft_unreadable
    test dword ptr [rbx + {MEMORY} + 36], 0x101
    jz .Lhotgraft_readable_end
.Lhotgraft_unreadable:
    mov eax, 0xc0000005
.Lhotgraft_readable_end:
    add rsp, 0x38
    ret

// Subroutine: the stack of the thread of r12, from r8 to r9. eax 0, or a failure.
.Lhotgraft_stack:
    sub rsp, 0x28
    mov r8, [r12 + {T_SP}]
    and r8, -8
    mov rdx, [r12 + {T_TEB}]
    mov r9, [rdx + 8]
    and r9, -8
    cmp r8, [rdx + 0x10]
    jb .Lhotgraft_stack_own
    cmp r8, r9
    jb .Lhotgraft_stack_size
// A stack of its own making: up to the end of the memory it lies in.
.Lhotgraft_stack_own:
    mov rdx, r8
    call .Lhotgraft_readable
    test eax, eax
    jnz .Lhotgraft_stack_end
    mov r8, [r12 + {T_SP}]
    and r8, -8
    mov r9, [rbx + {MEMORY}]
    add r9, [rbx + {MEMORY} + 24]
.Lhotgraft_stack_size:
    mov rcx, r9
    sub rcx, r8
    xor eax, eax
    cmp rcx, {MAX_STACK}
    mov ecx, 0xc00000fd
    cmova eax, ecx
.Lhotgraft_stack_end:
    add rsp, 0x28
    ret

// Subroutine: the next thread after r13 of this process; status in eax.
.Lhotgraft_next_thread:
    sub rsp, 0x38
    mov rcx, -1
    mov rdx, r13
    mov r8d, 0x4a
    xor r9d, r9d
    mov qword ptr [rsp + 0x20], 0
    lea rax, [rbx + {NEXT}]
    mov [rsp + 0x28], rax
    call [rbx + {next_thread}]
    add rsp, 0x38
    ret

// Subroutine: a call for the thread of r12 failed with eax. 0 if it has ended (STATUS_THREAD_IS_TERMINATING, or an exit
// status other than pending), else eax.
.Lhotgraft_ended:
    sub rsp, 0x28
    cmp eax, 0xc000004b
    je .Lhotgraft_ended_yes
    mov edi, eax
    mov rcx, [r12]
    call .Lhotgraft_thread
    test eax, eax
    mov eax, edi
    js .Lhotgraft_ended_end
    cmp dword ptr [rbx + {BASIC}], 0x103
    je .Lhotgraft_ended_end
.Lhotgraft_ended_yes:
    mov dword ptr [r12 + {T_STATE}], 2
    xor eax, eax
.Lhotgraft_ended_end:
    add rsp, 0x28
    ret

// The end: by command, or because the owner is gone.
.Lhotgraft_end:
    mov rcx, [rbx + {REQUEST}]
    call [rbx + {close}]
    mov rcx, [rbx + {OWNER}]
    call [rbx + {close}]
    mov rcx, [rbx + {REPLY}]
    call [rbx + {close}]
    xor ecx, ecx
    call [rbx + {exit}]
    int3
hotgraft_agent_end:
