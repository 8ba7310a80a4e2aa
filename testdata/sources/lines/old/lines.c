#include "bare.h"

static NOINLINE int square(int value)
{
    return value * value;
}

void start(void)
{
    put_line("square", square(last_number(7)));
    ExitProcess(0);
}
