#include "bare.h"

int inner(int value);
int outer(int value);

static int runs = 3;

void start(void)
{
    while (runs-- > 0) {
        put_line("inner", inner(runs));
        put_line("outer", outer(runs));
    }
    ExitProcess(0);
}
