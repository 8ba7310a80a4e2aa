#include "bare.h"

void start(void)
{
    HMODULE module = LoadLibraryA("bounds.dll");
    int (*byte)(unsigned, unsigned) = (void *)GetProcAddress(module, "record_byte");
    unsigned (*lookups)(void) = (void *)GetProcAddress(module, "record_lookups");
    put_line("inside", byte(1, 3));
    put_line("behind the text", byte(0, 5));
    put_line("in the next record", byte(0, 16));
    put_line("lookups", lookups());
    ExitProcess(0);
}
