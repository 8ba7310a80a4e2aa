#include "bare.h"

struct record {
    unsigned length;
    unsigned char bytes[12];
};

static struct record records[3] = {
    {5, "alpha"},
    {4, "beta"},
    {5, "gamma"},
};
static unsigned lookups;

__declspec(dllexport) unsigned record_count(void)
{
    return sizeof records / sizeof records[0];
}

__declspec(dllexport) int record_byte(unsigned record, unsigned index)
{
    lookups++;
#ifdef NEW
    if (record >= record_count() || index >= records[record].length)
        return -1;
#endif
    return records[record].bytes[index];
}

__declspec(dllexport) unsigned record_lookups(void)
{
    return lookups;
}

BOOL WINAPI DllMain(HINSTANCE module, DWORD reason, LPVOID reserved)
{
    (void)module, (void)reason, (void)reserved;
    return TRUE;
}
