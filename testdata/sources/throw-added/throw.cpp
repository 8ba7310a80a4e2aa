#include "bare_msvc.h"

static NOINLINE int checked(int value)
{
    if (value > 9)
#ifdef NEW
        throw value;
#else
        throw "too large";
#endif
    return value;
}

static NOINLINE int number(int value)
{
    try {
        return checked(value);
    } catch (...) {
        return -1;
    }
}

void start()
{
    put_number(number(5));
    put_number(number(50));
    put("\n");
    ExitProcess(0);
}
