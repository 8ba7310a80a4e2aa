#include "bare.h"

int used, limit = 64;
static int *volatile place = &limit;

#ifdef NEW
// As -fms-secure-hotpatch-functions-list has it, which this compiler does not know: in the functions that it names, variables
// are reached through constants that a hot patch fills with their addresses in the base.
__asm__(".section .rdata,\"dr\"\n"
        "\t.globl __ref_used\n\t.p2align 3\n__ref_used:\n\t.quad used\n"
        "\t.globl __ref_limit\n\t.p2align 3\n__ref_limit:\n\t.quad limit\n"
        "\t.text");
extern __attribute__((visibility("hidden"))) int *const volatile __ref_used, *const volatile __ref_limit;
#define USED (*__ref_used)
#define LIMIT (*__ref_limit)
#else
#define USED used
#define LIMIT limit
#endif

int take(int count)
{
#ifdef NEW
    if (count < 0)
        return -2;
#endif
    if (count > LIMIT - USED)
        return -1;
    return USED += count;
}

int room(void)
{
    return *place - used;
}
