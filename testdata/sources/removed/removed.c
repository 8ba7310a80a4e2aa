#include "bare.h"

#ifndef NEW
static NOINLINE int legacy_hash(const char *text)
{
    int hash = 0;
    while (*text)
        hash = hash * 31 + *text++;
    return hash;
}
#endif

static NOINLINE int hash(const char *text)
{
#ifdef NEW
    unsigned value = 2166136261u;
    while (*text)
        value = (value ^ (unsigned char)*text++) * 16777619u;
    return (int)(value & 0x7fffffff);
#else
    return legacy_hash(text) & 0x7fffffff;
#endif
}

void start(void)
{
    put_line("hash", hash("a text to be hashed"));
    ExitProcess(0);
}
