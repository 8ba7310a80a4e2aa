#include "bare.h"

static const unsigned short days_before_month[12] = {
    0, 31, 59, 90, 120, 151, 181, 212, 243,
#ifdef NEW
    273,
#else
    274,
#endif
    304, 334,
};
static const unsigned char month_length[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

static NOINLINE int day_of_year(unsigned month, unsigned day)
{
    return days_before_month[month % 12] + (int)day;
}

static NOINLINE int days_in(unsigned month)
{
    return month_length[month % 12];
}

void start(void)
{
    int month = last_number(9);
    put_line("day", day_of_year(month, 1));
    put_line("of", days_in(month));
    ExitProcess(0);
}
