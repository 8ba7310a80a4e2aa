#include "bare.h"

#ifdef NEW
static volatile int limit = 64;
#else
static volatile int limit = 128;
#endif
static int used;

int take(int count)
{
#ifdef NEW
    if (count < 0)
        return -2;
#endif
    if (count > limit - used)
        return -1;
    return used += count;
}

int room(void)
{
    return limit - used;
}
