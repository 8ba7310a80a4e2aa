#include "bare.h"

__attribute__((naked, noinline)) static int before(void)
{
    __asm__("movl $1, %eax\n\tretq");
}

// Three bytes in the old image: no room for a jump, and nothing but code on both sides.
__attribute__((naked, noinline)) static int tiny(void)
{
#ifdef NEW
    __asm__("movl $9, %eax\n\tretq");
#else
    __asm__("xorl %eax, %eax\n\tretq");
#endif
}

__attribute__((naked, noinline)) static int after(void)
{
    __asm__("movl $3, %eax\n\tretq");
}

void start(void)
{
    put_line("before", before());
    put_line("tiny", tiny());
    put_line("after", after());
    ExitProcess(0);
}
