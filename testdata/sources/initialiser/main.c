#include "bare.h"

// Apart from the rest, so that the compiler carries nothing from there into the entry point.
int take(int count);


void start(void)
{
    put_line("take", take(100));
    ExitProcess(0);
}
