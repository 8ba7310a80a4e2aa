#include "bare.h"

static int faults;

static NOINLINE int filter(unsigned code)
{
    faults++;
    return code == EXCEPTION_ACCESS_VIOLATION ? EXCEPTION_EXECUTE_HANDLER : EXCEPTION_CONTINUE_SEARCH;
}

static NOINLINE int load(volatile int *from)
{
    return *from;
}

static NOINLINE int probe(volatile int *from)
{
    int value;
    __try {
        value = load(from);
#ifdef NEW
        if (value > 1000)
            value = 1000;
#endif
    } __except (filter(GetExceptionCode())) {
#ifdef NEW
        put("unreadable\n");
        value = 0;
#else
        value = -1;
#endif
    }
    return value;
}

void start(void)
{
    int good = 4096;
    put_line("readable", probe(&good));
    put_line("not readable", probe((int *)16));
    put_line("faults", faults);
    ExitProcess(0);
}
