#include "bare.h"

static int accumulator = 7;

static NOINLINE int step(int operation, int operand)
{
    switch (operation) {
    case 0:
        accumulator += operand;
        break;
    case 1:
        accumulator -= operand;
        break;
    case 2:
        accumulator *= operand;
        break;
    case 3:
        put("print\n");
        break;
    case 4:
        accumulator ^= operand << 2;
        break;
    case 5:
        put_line("accumulator", accumulator);
        break;
    case 6:
        accumulator = operand ? accumulator / operand : 0;
        break;
#ifdef NEW
    case 7:
        accumulator = operand ? accumulator % operand : 0;
        break;
    case 8:
        put_line("operand", operand);
        break;
#endif
    default:
        put("unknown operation\n");
        return -1;
    }
    return accumulator;
}

// A switch that stays as it is, so that one table moves without change.
static NOINLINE void name(int operation)
{
    switch (operation) {
    case 0: put("add\n"); break;
    case 1: put("subtract\n"); break;
    case 2: put_line("multiply", accumulator); break;
    case 3: put("print\n"); break;
    case 4: accumulator++; break;
    case 5: put("show\n"); break;
    default: put("other\n");
    }
}

void start(void)
{
    for (int operation = 0; operation < 10; operation++) {
        name(operation);
        put_line("step", step(operation, 5));
    }
    ExitProcess(0);
}
