#include "bare.h"

// Inline functions are what the linker may fold, and it folds only within one section name.
#define LIMIT extern "C" __declspec(dllexport) inline NOINLINE __attribute__((used, section(".text$limit"))) int

LIMIT read_limit(int value)
{
    return value * 7 / 3 + 11;
}

LIMIT write_limit(int value)
{
#ifdef NEW
    if (value > 60)
        value = 60;
#endif
    return value * 7 / 3 + 11;
}

extern "C" BOOL WINAPI DllMain(HINSTANCE module, DWORD reason, LPVOID reserved)
{
    (void)module, (void)reason, (void)reserved;
    return TRUE;
}
