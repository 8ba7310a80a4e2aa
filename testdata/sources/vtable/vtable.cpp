#include "bare.h"

struct shape {
    virtual int area() const = 0;
    virtual int edges() const { return 0; }
};

struct rectangle : shape {
    int width, height;
    rectangle(int width, int height) : width(width), height(height) {}
    int area() const override
    {
#ifdef NEW
        if (width < 0 || height < 0)
            return 0;
#endif
        return width * height;
    }
    int edges() const override { return 4; }
};

struct square : rectangle {
    explicit square(int side) : rectangle(side, side) {}
    int edges() const override { return width ? 4 : 1; }
};

extern "C" void __cxa_pure_virtual()
{
    ExitProcess(3);
}

static NOINLINE const shape *pick(int which)
{
    static rectangle wide(-6, 4);
    static square even(5);
    return which ? static_cast<const shape *>(&wide) : &even;
}

static NOINLINE int total(const shape *one)
{
    return one->area() * 100 + one->edges();
}

extern "C" void start(void)
{
    put_line("square", total(pick(0)));
    put_line("rectangle", total(pick(1)));
    ExitProcess(0);
}
