#include "bare.h"

static const char *const names[4] = {"start", "stop", "pause", "resume"};
static unsigned shown;

__declspec(dllexport) char panel_initial(unsigned button)
{
    shown++;
#if VERSION >= 1
    if (button >= sizeof names / sizeof names[0])
        return '?';
#endif
    return names[button % 32][0];
}

__declspec(dllexport) unsigned panel_shown(void)
{
    return shown;
}

BOOL WINAPI DllMain(HINSTANCE module, DWORD reason, LPVOID reserved)
{
    (void)module, (void)reason, (void)reserved;
    return TRUE;
}
