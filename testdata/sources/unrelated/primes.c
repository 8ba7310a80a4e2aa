#include "bare.h"

static unsigned char composite[200];

static NOINLINE void sieve(void)
{
    for (unsigned i = 2; i < sizeof composite; i++)
        for (unsigned j = i * i; j < sizeof composite; j += i)
            composite[j] = 1;
}

static NOINLINE unsigned count_primes(unsigned limit)
{
    unsigned count = 0;
    for (unsigned i = 2; i < limit; i++)
        count += !composite[i];
    return count;
}

void start(void)
{
    sieve();
    put_line("primes", count_primes(150));
    ExitProcess(0);
}
