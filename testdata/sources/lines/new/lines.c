#include "bare.h"

// Why the square is
// what it is, in three lines
// more than before.
static NOINLINE int square(int value)
{
    // A product.
    return value * value;
}

void start(void)
{
    put_line("square", square(last_number(7)));
    ExitProcess(0);
}
