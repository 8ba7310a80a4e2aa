// A DLL that the service loads and unloads.

__declspec(dllexport) volatile int seen = 0;

// Old: ten more.
__declspec(dllexport) __attribute__((noinline)) int plugged(int value)
{
    seen = value;
    return value + 10;
}
