#include "bare.h"

static NOINLINE int report(int mark)
{
    put_line("filter", mark);
    return EXCEPTION_EXECUTE_HANDLER;
}

// Until a byte comes in, or there is none to come.
static NOINLINE void await(void)
{
    char byte;
    DWORD got;
    ReadFile(GetStdHandle(STD_INPUT_HANDLE), &byte, 1, &got, 0);
}

static NOINLINE int load(volatile int *from)
{
    return *from;
}

// The filter and the handler read the frame of this function, which the fix lays out anew.
static NOINLINE int guarded(volatile int *from)
{
#ifdef NEW
    volatile int mark = 2000, room[40];
    for (int i = 0; i < 40; i++)
        room[i] = 7 * i;
#else
    volatile int mark = 1000;
#endif
    __try {
        await();
        return load(from);
    } __except (report(mark)) {
#ifdef NEW
        put_line("room", room[39]);
#endif
        return -mark;
    }
}

void start(void)
{
    const char *line = GetCommandLineA();
    while (*line)
        line++;
    if (line[-1] == '!')
        put_line("pid", GetCurrentProcessId());
    for (int i = 0; i < 2; i++)
        put_line("result", guarded((int *)16));
    ExitProcess(0);
}
