#include "bare.h"

// Apart from the rest, so that the compiler carries nothing from there into the entry point.
int brightness(int percent);
int volume(int percent);
int unrelated(int value);
extern int (*volatile filter)(int);


void start(void)
{
    put_line("brightness", brightness(-20));
    put_line("volume", volume(-20));
    put_line("filter", filter(-20));
    put_line("loud", volume(300));
    put_line("unrelated", unrelated(2));
    ExitProcess(0);
}
