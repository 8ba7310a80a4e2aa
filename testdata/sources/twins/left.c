#include "bare.h"

static int calls;

static NOINLINE int scale(int value)
{
    calls++;
    return value * 3 + calls;
}

int left(int value)
{
    return scale(value) + 1;
}
