#include "bare.h"

static NOINLINE int twice(int value)
{
#ifdef NEW
    return value > 1000 ? 2000 : value * 2;
#else
    return value * 2;
#endif
}

void start(void)
{
    put_line("twice", twice(last_number(2000)));
    ExitProcess(0);
}
