#include "bare.h"

// Apart from the rest, so that the compiler carries nothing from there into the entry point.
int take(int count);
int room(void);

void start(void)
{
    const char *line = GetCommandLineA();
    int full = 0;
    for (; *line; line++)
        full |= line[0] == 'f' && line[1] == 'u';
    if (line[-1] == '!') {
        char go;
        DWORD done;
        put_line("pid", GetCurrentProcessId());
        put_line("take", take(full ? 70 : 10));
        ReadFile(GetStdHandle(STD_INPUT_HANDLE), &go, 1, &done, 0);
    }
    put_line("room", room());
    put_line("take", take(100));
    put_line("take", take(-5));
    ExitProcess(0);
}
