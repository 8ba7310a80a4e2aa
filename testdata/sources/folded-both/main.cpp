#include "bare.h"

// Apart from the rest, so that the compiler carries nothing from there into the entry point.
int limited(int value, bool writing);


extern "C" void start(void)
{
    int value = last_number(90);
    put_line("read", limited(value, false));
    put_line("write", limited(value, true));
    ExitProcess(0);
}
