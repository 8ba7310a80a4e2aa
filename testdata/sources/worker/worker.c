#include "bare.h"

static volatile LONG wanted, answered;
static volatile LONG question, answer;

static DWORD WINAPI worker(LPVOID unused)
{
    (void)unused;
    for (;;) {
        while (wanted == answered)
            Sleep(1);
        LONG value = question;
#ifdef NEW
        if (value > 1000)
            value = 1000;
#endif
        answer = value * 2;
        InterlockedIncrement(&answered);
    }
}

static NOINLINE LONG ask(LONG value)
{
    question = value;
    InterlockedIncrement(&wanted);
    while (wanted != answered)
        Sleep(1);
    return answer;
}

void start(void)
{
    CreateThread(0, 0, worker, 0, 0, 0);
    put_line("small", ask(21));
    put_line("large", ask(5000));
    ExitProcess(0);
}
