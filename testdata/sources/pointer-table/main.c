#include "bare.h"

// Apart from the rest, so that the compiler carries nothing from there into the entry point.
typedef int handler(int);

struct operations {
    const char *name;
    handler *open, *send;
};

extern const struct operations *volatile current;
void choose(int pipe);
int transmit(int value);
int take_few(int value);


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
