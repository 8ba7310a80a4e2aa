#include "bare.h"

int inner(int value);

static int last = 10;

static NOINLINE int keep(int value)
{
    last -= value;
    return last;
}

static int (*const steps[2])(int) = {keep, inner};

int outer(int value)
{
    return steps[value & 1](value) + last;
}
