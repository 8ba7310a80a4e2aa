#include "bare.h"

struct session {
    int id;
#ifdef NEW
    int failures;
#endif
    int state;
    struct session *next;
};

static struct session *sessions;

static NOINLINE void open_session(int id)
{
    struct session *one = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, sizeof *one);
    one->id = id;
    one->state = 1;
    one->next = sessions;
    sessions = one;
}

static NOINLINE int check_session(int id, int good)
{
    for (struct session *one = sessions; one; one = one->next)
        if (one->id == id) {
#ifdef NEW
            if (!good && ++one->failures > 2)
                one->state = 0;
#else
            (void)good;
#endif
            return one->state;
        }
    return -1;
}

void start(void)
{
    open_session(4);
    open_session(9);
    for (int i = 0; i < 4; i++)
        put_line("state", check_session(4, 0));
    ExitProcess(0);
}
