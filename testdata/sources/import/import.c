#include "bare.h"

static NOINLINE int copy_name(char *to, int size, const char *from)
{
#ifdef NEW
    lstrcpynA(to, from, size);
#else
    (void)size;
    lstrcpyA(to, from);
#endif
    return lstrlenA(to);
}

void start(void)
{
    static char name[32] = "unset";
    put_line("length", copy_name(name, 8, "a name beyond eight"));
    put(name);
    put("\n");
    ExitProcess(0);
}
