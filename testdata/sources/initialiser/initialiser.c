#include "bare.h"

#ifdef NEW
static int limit = 64;
#else
static int limit = 128;
#endif

int take(int count)
{
    if (count > limit)
        return -1;
    limit -= count;
    return limit;
}
