#include "bare.h"

static int attempts = 3;
static int seen;
#ifdef NEW
static int lockouts;
static int budget = 2;
#endif

static NOINLINE int try_password(int guess)
{
    seen++;
#ifdef NEW
    if (budget-- <= 0) {
        lockouts++;
        return -lockouts;
    }
#endif
    return guess == 42 ? 1 : attempts - seen;
}

static NOINLINE int count(void)
{
    return seen;
}

void start(void)
{
    for (int guess = 39; guess < 43; guess++)
        put_line("try", try_password(guess));
    put_line("seen", count());
    ExitProcess(0);
}
