#include <windows.h>

// Shares nothing with the other program but the file name.

struct tally {
    int words, letters, longest;
};

static HANDLE console;
static char line[64];
static int filled;

static __attribute__((noinline)) void flush(void)
{
    DWORD done;
    WriteFile(console, line, (DWORD)filled, &done, 0);
    filled = 0;
}

static __attribute__((noinline)) void append(char one)
{
    if (filled == sizeof line)
        flush();
    line[filled++] = one;
}

static __attribute__((noinline)) void append_text(const char *text)
{
    for (; *text; text++)
        append(*text);
}

static __attribute__((noinline)) void append_hex(unsigned value)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        append("0123456789abcdef"[value >> shift & 15]);
}

static __attribute__((noinline)) int is_letter(char one)
{
    return (one >= 'a' && one <= 'z') || (one >= 'A' && one <= 'Z') || one == '_';
}

static __attribute__((noinline)) void measure(const char *text, struct tally *result)
{
    int run = 0;
    for (; *text; text++) {
        run = is_letter(*text) ? run + 1 : 0;
        result->letters += run > 0;
        result->words += run == 1;
        if (run > result->longest)
            result->longest = run;
    }
}

static __attribute__((noinline)) void show(const struct tally *tally)
{
    append_text("words ");
    append_hex((unsigned)tally->words);
    append_text(" letters ");
    append_hex((unsigned)tally->letters);
    append_text(" longest ");
    append_hex((unsigned)tally->longest);
    append('\n');
}

void begin(void)
{
    struct tally tally = {0, 0, 0};
    console = GetStdHandle(STD_ERROR_HANDLE);
    measure(GetEnvironmentStringsA(), &tally);
    show(&tally);
    flush();
    TerminateProcess(GetCurrentProcess(), 0);
}
