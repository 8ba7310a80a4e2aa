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

int take_few(int value)
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

const struct operations *volatile current;

void choose(int pipe)
{
    current = pipe ? &pipe_operations : &file_operations;
}

int transmit(int value)
{
    return current->transmit(current->open(value));
}
