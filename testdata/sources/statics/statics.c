#include "bare.h"

static NOINLINE unsigned next_ticket(void)
{
    static unsigned last = 100;
    static unsigned issued;
    issued++;
#ifdef NEW
    last = last * 5 + 3;
    return last % 1000 + issued;
#else
    last = last + 1;
    return last + issued;
#endif
}

static NOINLINE unsigned next_serial(void)
{
    static unsigned last = 7;
    return last += 2;
}

void start(void)
{
    for (int i = 0; i < 3; i++) {
        put_line("ticket", next_ticket());
        put_line("serial", next_serial());
    }
    ExitProcess(0);
}
