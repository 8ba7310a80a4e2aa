#include "bare.h"

/* VERSION counts the releases of a year. Each fix is a bounds check; what a baseline adds is a new export. */

#define TABLE 8

struct entry {
    unsigned limit;
    unsigned value;
};

static struct entry table[TABLE] = {{3, 10}, {4, 20}, {5, 30}, {6, 40}, {7, 50}, {8, 60}, {9, 70}, {2, 80}};
static unsigned calls;
#if VERSION >= 8
unsigned quota = 16;
#else
unsigned quota = 64;
#endif

#define FIX(name, since, factor)                                               \
    __declspec(dllexport) int name(unsigned index, unsigned amount)            \
    {                                                                          \
        calls++;                                                               \
        CHECK_##since(index >= TABLE || amount > table[index].limit)           \
        return (int)(table[index % 64].value * factor + amount + quota);       \
    }

#define CHECK_OFF(condition)
#define CHECK_ON(condition)                                                    \
    if (condition)                                                             \
        return -1;

#if VERSION >= 1
#define CHECK_1(condition) CHECK_ON(condition)
#else
#define CHECK_1(condition) CHECK_OFF(condition)
#endif
#if VERSION >= 2
#define CHECK_2(condition) CHECK_ON(condition)
#else
#define CHECK_2(condition) CHECK_OFF(condition)
#endif
#if VERSION >= 4
#define CHECK_4(condition) CHECK_ON(condition)
#else
#define CHECK_4(condition) CHECK_OFF(condition)
#endif
#if VERSION >= 5
#define CHECK_5(condition) CHECK_ON(condition)
#else
#define CHECK_5(condition) CHECK_OFF(condition)
#endif
#if VERSION >= 7
#define CHECK_7(condition) CHECK_ON(condition)
#else
#define CHECK_7(condition) CHECK_OFF(condition)
#endif
#if VERSION >= 9
#define CHECK_9(condition) CHECK_ON(condition)
#else
#define CHECK_9(condition) CHECK_OFF(condition)
#endif
#if VERSION >= 11
#define CHECK_11(condition) CHECK_ON(condition)
#else
#define CHECK_11(condition) CHECK_OFF(condition)
#endif
#if VERSION >= 12
#define CHECK_12(condition) CHECK_ON(condition)
#else
#define CHECK_12(condition) CHECK_OFF(condition)
#endif

FIX(read_alpha, 1, 3)
FIX(read_beta, 2, 5)
FIX(read_gamma, 4, 7)
FIX(read_delta, 5, 9)
FIX(read_epsilon, 7, 11)
FIX(read_zeta, 9, 13)
FIX(read_eta, 11, 15)
FIX(read_theta, 12, 17)

#if VERSION >= 3
__declspec(dllexport) unsigned engine_calls(void)
{
    return calls;
}
#endif
#if VERSION >= 6
__declspec(dllexport) unsigned engine_quota(void)
{
    return quota;
}
#endif
#if VERSION >= 10
__declspec(dllexport) void engine_reset(void)
{
    calls = 0;
}
#endif

BOOL WINAPI DllMain(HINSTANCE module, DWORD reason, LPVOID reserved)
{
    (void)module, (void)reason, (void)reserved;
    return TRUE;
}
