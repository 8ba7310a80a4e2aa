#include "bare.h"

int left(int value);
int right(int value);

void start(void)
{
    for (int i = 0; i < 2; i++) {
        put_line("left", left(10));
        put_line("right", right(10));
    }
    ExitProcess(0);
}
