#include "bare_msvc.h"

struct Error {
    int code;
    explicit Error(int code) : code(code) {}
    Error(const Error &other) : code(other.code) {}
    ~Error() { put("error gone\n"); }
};

struct Scope {
    const char *name;
    explicit Scope(const char *name) : name(name) {}
    ~Scope()
    {
        put("leave ");
        put(name);
        put("\n");
    }
};

static NOINLINE int digit(char c)
{
    if (c < '0' || c > '9')
        throw Error(c);
    return c - '0';
}

static NOINLINE int number(const char *text)
{
    Scope scope("number");
    int value = 0;
#ifdef NEW
    int at = 0;
#endif
    try {
        Scope inner("digits");
        for (; *text; text++) {
            value = value * 10 + digit(*text);
#ifdef NEW
            if (++at > 5)
                throw Error(-at);
#endif
        }
    } catch (const Error &error) {
#ifdef NEW
        put("at ");
        put_number(at);
        put("\n");
#endif
        value = -error.code;
    }
    return value;
}

void start()
{
    static const char *const texts[] = {"123", "12x", "123456"};
    for (const char *text : texts) {
        put_number(number(text));
        put("\n");
    }
    ExitProcess(0);
}
