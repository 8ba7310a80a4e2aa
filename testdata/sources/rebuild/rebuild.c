#include "bare.h"

static int total = 5;
static const char *const names[3] = {"zero", "one", "two"};

__declspec(dllexport) int add(int value)
{
    return total += value;
}

__declspec(dllexport) const char *name(unsigned index)
{
    return index < 3 ? names[index] : "more";
}

BOOL WINAPI DllMain(HINSTANCE module, DWORD reason, LPVOID reserved)
{
    (void)module, (void)reserved;
    if (reason == DLL_PROCESS_ATTACH)
        total++;
    return TRUE;
}
