#include "bare.h"

NTSYSAPI ULONG NTAPI RtlNtStatusToDosError(NTSTATUS status);

long explain(long status)
{
#ifdef NEW
    return (long)RtlNtStatusToDosError(status);
#else
    return status & 0xffff;
#endif
}
