#include "bare.h"

static int spent;

static NOINLINE int spend(int amount)
{
#ifdef NEW
    if (amount < 0)
        return -1;
#endif
    spent += amount;
    put_line("spent", spent);
    return spent;
}

void start(void)
{
    put_line("first", spend(30));
    put_line("second", spend(-50));
    ExitProcess(0);
}
