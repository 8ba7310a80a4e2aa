#include "bare.h"

void start(void)
{
    HMODULE dll = LoadLibraryA("export-added.dll");
    int (*set)(int) = (int (*)(int))(void (*)(void))GetProcAddress(dll, "level_set");
    int (*get)(void) = (int (*)(void))(void (*)(void))GetProcAddress(dll, "level_get");
    put_line("set", set(500));
    put_line("get", get());
    ExitProcess(0);
}
