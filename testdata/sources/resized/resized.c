#include "bare.h"

#ifdef NEW
#define ROOM 24
#else
#define ROOM 16
#endif

static int queue[ROOM];
static int length;
static int after = 77;

static NOINLINE int push(int value)
{
    if (length >= ROOM)
        return -1;
    queue[length++] = value;
    return length;
}

void start(void)
{
    int last = 0;
    for (int i = 0; i < 20; i++)
        last = push(i);
    put_line("last", last);
    put_line("front", queue[last_number(3) % ROOM]);
    put_line("after", after++);
    ExitProcess(0);
}
