// Sets the limit of a running process. `limit`, `used` and `room` are the base's: two variables that are private to
// their file there, and a function.
extern int limit, used;
int room(void);
__declspec(dllimport) unsigned long GetCurrentProcessId(void);

static int before;

int hotgraft_pre_apply(void)
{
    // More is taken than the new limit allows: not now.
    return used > 64 || GetCurrentProcessId() == 0;
}

int hotgraft_post_apply(void)
{
    before = limit;
    limit = 64;
    return room() < 0;
}

int hotgraft_post_rollback(void)
{
    limit = before;
    return 0;
}
