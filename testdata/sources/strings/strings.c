#include "bare.h"

static NOINLINE void report(int status)
{
#ifdef NEW
    put(status ? "the request was refused\n" : "the request was accepted\n");
    if (status > 1)
        put("see the journal for the reason\n");
#else
    put(status ? "bad request\n" : "the request was accepted\n");
#endif
}

static NOINLINE void greet(void)
{
    put("ready\n");
}

void start(void)
{
    greet();
    report(0);
    report(1);
    report(2);
    ExitProcess(0);
}
