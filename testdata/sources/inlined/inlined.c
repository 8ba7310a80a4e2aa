#include "bare.h"

static inline int clamp(int value)
{
#ifdef NEW
    if (value < 0)
        return 0;
#endif
    return value > 100 ? 100 : value;
}

static NOINLINE int brightness(int percent)
{
    return clamp(percent) * 255 / 100;
}

static NOINLINE int volume(int percent)
{
    return clamp(percent) * 31 / 100;
}

static NOINLINE int unrelated(int value)
{
    return value * 3 + 1;
}

static int (*volatile filter)(int) = clamp;

void start(void)
{
    put_line("brightness", brightness(-20));
    put_line("volume", volume(-20));
    put_line("filter", filter(-20));
    put_line("loud", volume(300));
    put_line("unrelated", unrelated(2));
    ExitProcess(0);
}
