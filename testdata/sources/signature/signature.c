#include "bare.h"

#ifdef NEW
static NOINLINE int visit(int value, int depth)
{
    return depth > 3 ? -1 : value + depth;
}
#else
static NOINLINE int visit(int value)
{
    return value + 1;
}
#endif

static void *volatile visitor = (void *)visit;

static NOINLINE int walk(int value)
{
#ifdef NEW
    return ((int (*)(int, int))visitor)(value, 2);
#else
    return ((int (*)(int))visitor)(value);
#endif
}

void start(void)
{
    put_line("walk", walk(20));
    ExitProcess(0);
}
