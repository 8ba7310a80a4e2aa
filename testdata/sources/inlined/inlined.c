#include "bare.h"

static inline int clamp(int value)
{
#ifdef NEW
    if (value < 0)
        return 0;
#endif
    return value > 100 ? 100 : value;
}

int brightness(int percent)
{
    return clamp(percent) * 255 / 100;
}

int volume(int percent)
{
    return clamp(percent) * 31 / 100;
}

int unrelated(int value)
{
    return value * 3 + 1;
}

int (*volatile filter)(int) = clamp;
