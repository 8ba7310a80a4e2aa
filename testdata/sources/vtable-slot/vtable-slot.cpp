#include "bare.h"

struct stage {
    virtual int weight() const { return 1; }
#ifdef NEW
    virtual bool ready() const { return true; }
#endif
    virtual int cost() const { return 2; }
};

struct slow_stage : stage {
    int factor = 3;
    int cost() const override { return 2 * factor; }
#ifdef NEW
    bool ready() const override { return factor < 3; }
#endif
};

static NOINLINE const stage *current(int which)
{
    static stage quick;
    static slow_stage slow;
    return which ? static_cast<const stage *>(&slow) : &quick;
}

static NOINLINE int price(const stage *one)
{
#ifdef NEW
    if (!one->ready())
        return -1;
#endif
    return one->weight() * one->cost();
}

extern "C" void start(void)
{
    put_line("quick", price(current(0)));
    put_line("slow", price(current(1)));
    ExitProcess(0);
}
