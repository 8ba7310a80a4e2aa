// The little that the fixtures with Visual C++'s binary interface need of Windows, whose SDK they do without.
#ifndef BARE_MSVC_H
#define BARE_MSVC_H

#define NOINLINE __declspec(noinline)

extern "C" {
__declspec(dllimport) void *GetStdHandle(unsigned long which);
__declspec(dllimport) int WriteFile(void *file, const void *bytes, unsigned long length, unsigned long *done, void *);
__declspec(dllimport) __declspec(noreturn) void ExitProcess(unsigned code);
void start();

// Type descriptors begin with it; nothing calls it here.
extern const void *const type_info_vftable[2] __asm__("??_7type_info@@6B@");
const void *const type_info_vftable[2] = {};
}

static NOINLINE void put(const char *text)
{
    unsigned long length = 0, done;
    while (text[length])
        length++;
    WriteFile(GetStdHandle(0xFFFFFFF5), text, length, &done, nullptr);
}

static NOINLINE void put_number(int value)
{
    char digits[16];
    int at = sizeof digits;
    unsigned rest = value < 0 ? 0u - static_cast<unsigned>(value) : static_cast<unsigned>(value);
    digits[--at] = 0;
    do {
        digits[--at] = static_cast<char>('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (value < 0)
        digits[--at] = '-';
    put(digits + at);
}

#endif
