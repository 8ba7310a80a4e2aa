#include "bare.h"

struct tally {
    int words, letters;
};

static NOINLINE struct tally measure(const char *text)
{
    struct tally result = {0, 0};
    int inside = 0;
    for (; *text; text++) {
        int letter = *text != ' ';
        result.words += letter && !inside;
        result.letters += letter;
        inside = letter;
    }
    return result;
}

static NOINLINE void show(struct tally tally)
{
    put_line("words", tally.words);
    put_line("letters", tally.letters);
}

void start(void)
{
    show(measure(GetCommandLineA()));
    ExitProcess(0);
}
