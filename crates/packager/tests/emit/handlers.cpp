// A function with a destructor and two catch blocks, in the tables of __CxxFrameHandler3. Built old, and new with -DNEW.
extern "C" void ExitProcess(unsigned);
extern "C" int _fltused = 1;
// Where run-time type information points to; the C++ library is not linked.
extern const char type_info_vftable[16] __asm__("??_7type_info@@6B@");
extern const char type_info_vftable[16] = {1};

volatile int sink;

struct Guard {
    int value;
    __attribute__((noinline)) ~Guard() { sink += value; }
};

__attribute__((noinline)) void thrower(int value)
{
    if (value > 2)
        throw value;
    if (value == 1)
        throw "text";
}

__attribute__((noinline)) int work(int value)
{
    Guard guard{value};
    try {
        thrower(value);
#ifdef NEW
        sink += 10;
#endif
    } catch (int number) {
        sink += 1;
        return number * 2;
    } catch (const char *text) {
        return text[0];
    }
    return 0;
}

extern "C" void start() { ExitProcess(work(0) + work(1) + work(5)); }
