#include "bare.h"

static NOINLINE void log_at(int line, const char *text)
{
    put_line(text, line);
}

#define LOG(text) log_at(__LINE__, text)

static NOINLINE int before(int value)
{
    if (value > 20)
        LOG("very large");
    return value + 2;
}

// A remark that shifts what follows
// by two lines.
static NOINLINE int checked(int value)
{
    if (value > 10)
        LOG("large");
    return value + 1;
}

void start(void)
{
    put_line("before", before(30));
    put_line("checked", checked(3));
    put_line("checked", checked(30));
    ExitProcess(0);
}
