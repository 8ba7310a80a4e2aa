#include "bare_msvc.h"

extern "C" {
int may_throw(int value);
int guarded(int value);
void object_gone(const int *object);
}

struct Error {
    int code;
};

NOINLINE int may_throw(int value)
{
    if (value > 9)
        throw Error{value};
    return value;
}

NOINLINE void object_gone(const int *object)
{
    put("object ");
    put_number(*object);
    put(" gone\n");
}

// clang writes the older tables only, so this function is written out: it calls may_throw with an object in its frame,
// which goes when the call returns or throws, and catches whatever is thrown. Numbers in the tables are compressed: twice
// the value, in a byte each (the layout is that of ehdata4_export.h in Microsoft's vcruntime).
#ifdef NEW
#define OBJECT "48"
#define TWICE "96"
#define FAILED "-2"
#else
#define OBJECT "40"
#define TWICE "80"
#define FAILED "-1"
#endif
__asm__(
    "	.def guarded; .scl 2; .type 32; .endef\n"
    "	.section .text,\"xr\",one_only,guarded\n"
    "	.globl guarded\n"
    "	.p2align 4\n"
    "guarded:\n"
    "	.seh_proc guarded\n"
    "	.seh_handler __CxxFrameHandler4, @unwind, @except\n"
    "	subq $72, %rsp\n"
    "	.seh_stackalloc 72\n"
    "	.seh_endprologue\n"
    "	movl %ecx, " OBJECT "(%rsp)\n"
    ".Linside:\n"
    "	callq may_throw\n"
    "	nop\n"
    ".Loutside:\n"
    "	movl %eax, 32(%rsp)\n"
    "	leaq " OBJECT "(%rsp), %rcx\n"
    "	callq object_gone\n"
    "	movl 32(%rsp), %eax\n"
    "	addq $72, %rsp\n"
    "	retq\n"
    ".Lcontinue:\n"
    "	movl $" FAILED ", %eax\n"
    "	addq $72, %rsp\n"
    "	retq\n"
    "	.seh_handlerdata\n"
    "	.long .Linfo@IMGREL\n"
    "	.section .text,\"xr\",one_only,guarded\n"
    "	.seh_endproc\n"
    "	.p2align 4\n"
    "caught:\n"
    "	.seh_proc caught\n"
    "	movq %rdx, 16(%rsp)\n"
    "	pushq %rbp\n"
    "	.seh_pushreg %rbp\n"
    "	subq $32, %rsp\n"
    "	.seh_stackalloc 32\n"
    "	.seh_endprologue\n"
    "	leaq (%rdx), %rbp\n"
    "	leaq " OBJECT "(%rbp), %rcx\n"
    "	callq object_gone\n"
    "	xorl %eax, %eax\n"
    "	addq $32, %rsp\n"
    "	popq %rbp\n"
    "	retq\n"
    "	.seh_endproc\n"
    "	.section .xdata,\"dr\",associative,guarded\n"
    ".Linfo:\n"
    "	.byte 0x18\n"                 // unwind map, try map
    "	.long .Lunwind@IMGREL\n"
    "	.long .Ltry@IMGREL\n"
    "	.long .Lstates@IMGREL\n"
    ".Lunwind:\n"
    "	.byte 6, 8\n"                 // 3 states; 0: nothing, to -1
    "	.byte 10\n"                   // 1: destructor, to 0
    "	.long object_gone@IMGREL\n"
    "	.byte " TWICE "\n"
    "	.byte 64\n"                   // 2: nothing, to -1
    ".Ltry:\n"
    "	.byte 2, 0, 2, 4\n"           // 1 try block: states 0 to 1, its catches up to 2
    "	.long .Lcatches@IMGREL\n"
    ".Lcatches:\n"
    "	.byte 2\n"
    "	.byte 0x11\n"                 // adjectives; one place to go on at
    "	.byte 128\n"                  // 0x40, catch (...)
    "	.long caught@IMGREL\n"
    "	.byte (.Lcontinue - guarded) * 2\n"
    ".Lstates:\n"
    "	.byte 4\n"
    "	.byte (.Linside - guarded) * 2, 4\n"
    "	.byte (.Loutside - .Linside) * 2, 0\n"
    "	.text\n");

void start()
{
    static const int values[] = {5, 50, 7};
    for (int value : values) {
        put_number(guarded(value));
        put("\n");
    }
    ExitProcess(0);
}
