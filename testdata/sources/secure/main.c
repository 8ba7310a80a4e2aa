#include "bare.h"

// Apart from the rest, so that the compiler carries nothing from there into the entry point.
int take(int count);
int room(void);

void start(void)
{
    put_line("take", take(10));
    put_line("take", take(-5));
    put_line("room", room());
    ExitProcess(0);
}
