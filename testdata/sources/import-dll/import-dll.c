#include "bare.h"

NTSYSAPI ULONG NTAPI RtlNtStatusToDosError(NTSTATUS status);

static NOINLINE long explain(long status)
{
#ifdef NEW
    return (long)RtlNtStatusToDosError(status);
#else
    return status & 0xffff;
#endif
}

void start(void)
{
    put_line("error", explain((long)0xC0000022));
    ExitProcess(0);
}
