#include "bare.h"

// Apart from the rest, so that the compiler carries nothing from there into the entry point.
extern int queue[], after;
int push(int value);


void start(void)
{
    int last = 0;
    for (int i = 0; i < 20; i++)
        last = push(i);
    put_line("last", last);
    put_line("front", queue[last_number(3)]);
    put_line("after", after++);
    ExitProcess(0);
}
