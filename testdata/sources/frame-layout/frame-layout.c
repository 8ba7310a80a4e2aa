#include "bare.h"

struct job {
    int id;
#ifdef NEW
    int limit;
#endif
    int count;
    int values[6];
};

static NOINLINE void fill(struct job *job, int from)
{
    job->count = from % 7;
    for (int i = 0; i < job->count; i++)
        job->values[i] = from * (i + 1);
#ifdef NEW
    job->limit = 100;
#endif
}

static NOINLINE int sum(const struct job *job)
{
    int total = job->id;
    for (int i = 0; i < job->count; i++)
#ifdef NEW
        total += job->values[i] < job->limit ? job->values[i] : job->limit;
#else
        total += job->values[i];
#endif
    return total;
}

static NOINLINE int handle(int id)
{
    struct job job;
    job.id = id;
    fill(&job, id * 5);
    return sum(&job);
}

void start(void)
{
    for (int id = 1; id < 8; id++)
        put_line("sum", handle(id * 3));
    ExitProcess(0);
}
