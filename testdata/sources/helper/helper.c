#include "bare.h"

#ifdef NEW
static NOINLINE int digit_value(int character)
{
    if (character >= '0' && character <= '9')
        return character - '0';
    put("not a digit\n");
    return 0;
}
#endif

static NOINLINE int parse(const char *text)
{
    int value = 0;
    for (; *text; text++)
#ifdef NEW
        value = value * 10 + digit_value(*text);
#else
        value = value * 10 + (*text - '0');
#endif
    return value;
}

void start(void)
{
    put_line("good", parse("1234"));
    put_line("bad", parse("12x4"));
    ExitProcess(0);
}
