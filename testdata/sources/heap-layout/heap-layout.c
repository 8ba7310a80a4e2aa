#include "bare.h"

struct job {
    int id;
#ifdef NEW
    int limit;
#endif
    int count;
    int values[6];
};

static void *kept;

static NOINLINE void begin(int id)
{
    struct job *job = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, sizeof *job);
    job->id = id;
    job->count = 1;
#ifdef NEW
    job->limit = 100;
#endif
    kept = job;
}

static NOINLINE int add(int value)
{
    struct job *job = kept;
#ifdef NEW
    if (value > job->limit)
        value = job->limit;
#endif
    job->values[job->count % 6] += value;
    return job->values[job->count++ % 6];
}

void start(void)
{
    begin(1);
    for (int i = 1; i < 8; i++)
        put_line("added", add(i * 30));
    ExitProcess(0);
}
