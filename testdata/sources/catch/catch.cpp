#include <cstdio>
#include <cstdlib>

struct parse_error {
    const char *what;
    int at;
};

struct guard {
    const char *name;
    explicit guard(const char *name) : name(name) {}
    ~guard() { std::printf("leave %s\n", name); }
};

__attribute__((noinline)) static int digit(const char *text, int at)
{
    if (text[at] < '0' || text[at] > '9')
        throw parse_error{"not a digit", at};
    return text[at] - '0';
}

__attribute__((noinline)) static int number(const char *text)
{
    guard inside("number");
    int value = 0;
    for (int at = 0; text[at]; at++) {
#ifdef NEW
        if (at >= 4)
            throw parse_error{"too long", at};
#endif
        value = value * 10 + digit(text, at);
    }
    return value;
}

__attribute__((noinline)) static int number_or(const char *text, int otherwise)
{
    try {
        return number(text);
    } catch (const parse_error &error) {
#ifdef NEW
        std::printf("%s at %d in \"%s\"\n", error.what, error.at, text);
#else
        std::printf("%s\n", error.what);
#endif
        return otherwise;
    }
}

int main()
{
    std::printf("%d\n", number_or("123", -1));
    std::printf("%d\n", number_or("12x", -2));
    std::printf("%d\n", number_or("123456", -3));
    return 0;
}
