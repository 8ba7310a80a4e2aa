#include "bare.h"

#ifdef NEW
static int limit = 64;
#else
static int limit = 128;
#endif

static NOINLINE int take(int count)
{
    if (count > limit)
        return -1;
    limit -= count;
    return limit;
}

void start(void)
{
    put_line("take", take(100));
    ExitProcess(0);
}
