#include "bare.h"

// Apart from the rest, so that the compiler carries nothing from there into the entry point.
long explain(long status);


void start(void)
{
    put_line("error", explain((long)0xC0000022));
    ExitProcess(0);
}
