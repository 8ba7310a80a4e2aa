#include "bare.h"

static int calls;

static NOINLINE int scale(int value)
{
    calls += 2;
#ifdef NEW
    if (value > 8)
        value = 8;
#endif
    return value * 3 + calls;
}

int right(int value)
{
    return scale(value) + 2;
}
