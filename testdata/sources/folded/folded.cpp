#include "bare.h"

// Inline functions are what the linker may fold, and it folds only within one section name.
#define LIMIT inline NOINLINE __attribute__((section(".text$limit"))) int

LIMIT read_limit(int value)
{
    return value * 7 / 3 + 11;
}

LIMIT write_limit(int value)
{
#ifdef NEW
    if (value > 60)
        value = 60;
#endif
    return value * 7 / 3 + 11;
}

int limited(int value, bool writing)
{
    return writing ? write_limit(value) : read_limit(value);
}
