#include "bare.h"

#ifdef NEW
#define ROOM 24
#else
#define ROOM 16
#endif

int queue[ROOM];
static int length;
int after = 77;

int push(int value)
{
    if (length >= ROOM)
        return -1;
    queue[length++] = value;
    return length;
}
