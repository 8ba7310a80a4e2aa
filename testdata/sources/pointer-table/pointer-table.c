#include "bare.h"

typedef int handler(int);

static NOINLINE int take(int value)
{
    return value;
}

static NOINLINE int halve(int value)
{
    return value / 2;
}

static NOINLINE int take_few(int value)
{
    return value > 50 ? -1 : value;
}

struct operations {
    const char *name;
    handler *open, *transmit;
};

static const struct operations file_operations = {"file", take, halve};
static const struct operations pipe_operations = {
    "pipe",
#ifdef NEW
    take_few,
#else
    take,
#endif
    halve,
};

static const struct operations *volatile current;

static NOINLINE void choose(int pipe)
{
    current = pipe ? &pipe_operations : &file_operations;
}

static NOINLINE int transmit(int value)
{
    return current->transmit(current->open(value));
}

void start(void)
{
    for (int pipe = 0; pipe < 2; pipe++) {
        choose(pipe);
        put(current->name);
        put_line("", transmit(99));
    }
    put_line("direct", take_few(60));
    ExitProcess(0);
}
