#include "bare.h"

static int level;

__declspec(dllexport) int level_get(void)
{
    return level;
}

#ifdef NEW
__declspec(dllexport) int level_reset(int to)
{
    return level = to;
}
#endif

__declspec(dllexport) int level_set(int to)
{
    return level = to < 0 ? 0 : to;
}

BOOL WINAPI DllMain(HINSTANCE module, DWORD reason, LPVOID reserved)
{
    (void)module, (void)reason, (void)reserved;
    return TRUE;
}
