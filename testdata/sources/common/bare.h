// The little that the fixtures need of Windows, so that most of them can do without a C run-time.
#ifndef BARE_H
#define BARE_H

#include <windows.h>

#define NOINLINE __attribute__((noinline))

#ifdef __cplusplus
extern "C" void start(void);
#else
void start(void);
#endif

static NOINLINE __attribute__((unused)) void put(const char *text)
{
    HANDLE out = GetStdHandle(STD_OUTPUT_HANDLE);
    DWORD length = 0, done;
    while (text[length])
        length++;
    WriteFile(out, text, length, &done, 0);
}

static NOINLINE __attribute__((unused)) void put_number(long long value)
{
    char digits[24];
    int at = sizeof digits;
    unsigned long long rest = value < 0 ? 0ull - (unsigned long long)value : (unsigned long long)value;
    digits[--at] = 0;
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (value < 0)
        digits[--at] = '-';
    put(digits + at);
}

static NOINLINE __attribute__((unused)) void put_line(const char *label, long long value)
{
    put(label);
    put(" ");
    put_number(value);
    put("\n");
}

// The number that ends the command line; `fallback` if none does.
static NOINLINE __attribute__((unused)) int last_number(int fallback)
{
    const char *line = GetCommandLineA(), *word = line;
    int value = 0, digits = 0;
    for (const char *at = line; *at; at++)
        if (*at == ' ')
            word = at + 1;
    for (; *word >= '0' && *word <= '9'; word++, digits++)
        value = value * 10 + (*word - '0');
    return digits && word[0] == 0 ? value : fallback;
}

#endif
