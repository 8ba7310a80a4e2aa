// A small threaded service for the engine's live tests. Workers ask `answer` all the time and count what is neither the
// old nor the new answer; commands come in on standard input, one letter a line.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <winsock2.h>
#include <windows.h>

#define EXPORT __declspec(dllexport)
#define FUNCTION EXPORT __attribute__((noinline))

EXPORT volatile LONG hits = 0;
EXPORT volatile LONG held = 0;
static volatile LONG paced = 0, stop = 0, spinning = 0, wrong = 0, sink = 0;
static volatile LONG64 total = 0;

// Old: one more.
FUNCTION int answer(int value)
{
    sink = value;
    return value + 1;
}

// Old: twice.
FUNCTION int twice(int value)
{
    sink = value;
    return value * 2;
}

// A thread can be kept in here.
FUNCTION int hold(int value)
{
    InterlockedIncrement(&held);
    while (held)
        Sleep(1);
    return value;
}

// A request of ordinary size: a hash over what was sent. It refers to nothing, so that a copy of it runs anywhere.
FUNCTION unsigned request(const unsigned char *bytes, int size)
{
    unsigned hash = 2166136261u;
    for (int i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

// Calls itself; the innermost call waits while `held`.
FUNCTION int deep(int value)
{
    if (value == 0)
        return hold(0);
    return deep(value - 1) + 1;
}

// Its first byte is the last of a page.
EXPORT int crossing(int value);
__asm__(".text\n"
        ".balign 4096\n"
        ".skip 4095, 0x90\n"
        ".globl crossing\n"
        "crossing:\n"
        "leal 1(%rcx,%rcx), %eax\n" // Over the end of the page.
        "subl $1, %eax\n"
        "ret\n"
        ".skip 8, 0xcc\n"
        ".section .drectve\n"
        ".ascii \" -export:crossing\"\n"
        ".text\n");

// Its loop leads back to its first instruction. Goes on while `held`.
EXPORT int looping(int value);
__asm__(".text\n"
        ".balign 16\n"
        ".skip 16, 0xcc\n"
        ".globl looping\n"
        "looping:\n"
        "pause\n"
        "cmpl $0, held(%rip)\n"
        "jne looping\n"
        "leal 1(%rcx), %eax\n"
        "ret\n"
        ".skip 16, 0xcc\n"
        ".section .drectve\n"
        ".ascii \" -export:looping\"\n"
        ".text\n");

// The replacement of `through` calls this.
FUNCTION int throw_it(int value)
{
    sink = value;
    RaiseException(0xe0000001, 0, 0, NULL);
    return value;
}

// Old: throws nothing.
FUNCTION int through(int value)
{
    sink = value;
    return value;
}

// Calls `through`: 1 if an exception came out of it, plus 2 if rbx is not then what it was before the call.
int catcher(void);
__asm__(".text\n"
        ".balign 16\n"
        ".globl catcher\n"
        ".seh_proc catcher\n"
        "catcher:\n"
        "pushq %rbx\n"
        ".seh_pushreg %rbx\n"
        "subq $32, %rsp\n"
        ".seh_stackalloc 32\n"
        ".seh_endprologue\n"
        "movl $0x1234, %ebx\n"
        "movl $5, %ecx\n"
        ".Lguarded:\n"
        "call through\n"
        "nop\n"
        ".Lguarded_end:\n"
        "xorl %eax, %eax\n"
        "jmp .Lcompare\n"
        ".Lcaught:\n"
        "movl $1, %eax\n"
        ".Lcompare:\n"
        "cmpl $0x1234, %ebx\n"
        "je .Lcatcher_end\n"
        "addl $2, %eax\n"
        ".Lcatcher_end:\n"
        "addq $32, %rsp\n"
        "popq %rbx\n"
        "ret\n"
        ".seh_handler __C_specific_handler, @except\n"
        ".seh_handlerdata\n"
        ".long 1\n"
        ".rva .Lguarded, .Lguarded_end\n"
        ".long 1\n" // Whatever it is, catch it.
        ".rva .Lcaught\n"
        ".text\n"
        ".seh_endproc\n");

int main(int count, char **arguments);

// How many callers up the stack `main` is; 0: the stack cannot be walked up to it.
FUNCTION int depth(void)
{
    void *frames[32];
    DWORD64 base, start;
    USHORT count = RtlCaptureStackBackTrace(0, 32, frames, NULL);
    PRUNTIME_FUNCTION of_main = RtlLookupFunctionEntry((DWORD64)main, &base, NULL), other;
    for (int i = 0; i < count; i++) {
        other = RtlLookupFunctionEntry((DWORD64)frames[i], &start, NULL);
        if (other && other == of_main)
            return i;
    }
    return 0;
}

// Old: does not ask. The replacement returns what `depth` says, called from the patch.
FUNCTION int outer(int value)
{
    sink = value;
    return -1;
}

// Replace the entry of `answer` by a jump to `twice`, as another tool would.
static void hook(void)
{
    unsigned char jump[5] = {0xe9};
    DWORD old;
    int distance = (int)((char *)twice - ((char *)answer + 5));
    memcpy(jump + 1, &distance, 4);
    VirtualProtect((void *)answer, 5, PAGE_EXECUTE_READWRITE, &old); // It runs on this page itself.
    memcpy((void *)answer, jump, 5);
    VirtualProtect((void *)answer, 5, old, &old);
}

typedef LONG(NTAPI *Lock)(ULONG, ULONG *, ULONG_PTR *);
typedef LONG(NTAPI *Unlock)(ULONG, ULONG_PTR);

// Hold the loader lock until `held` is 0 again.
static DWORD WINAPI keep_loader(void *argument)
{
    HMODULE ntdll = GetModuleHandleA("ntdll.dll");
    Lock lock = (Lock)(void *)GetProcAddress(ntdll, "LdrLockLoaderLock");
    Unlock unlock = (Unlock)(void *)GetProcAddress(ntdll, "LdrUnlockLoaderLock");
    ULONG_PTR cookie;
    (void)argument;
    lock(0, NULL, &cookie);
    held = 1;
    while (held)
        Sleep(1);
    unlock(0, cookie);
    return 0;
}

// What each worker has done.
static volatile LONG rounds[64];

static DWORD WINAPI work(void *argument)
{
    int value = (int)(INT_PTR)argument, worker = value / 1000 % 64;
    while (!stop) {
        int one = answer(value), two = twice(value);
        if (one != value + 1 && one != value + 2)
            InterlockedIncrement(&wrong);
        if (two != value * 2 && two != value * 3)
            InterlockedIncrement(&wrong);
        InterlockedIncrement64(&total);
        rounds[worker]++;
        value = (value + 1) & 0xfffff;
        // A request server waits for requests: paced, the workers rest after each batch; else they never do.
        if (paced && value % 200 == 0)
            Sleep(1);
    }
    return 0;
}

// Pointers to functions lie on its stack meanwhile.
static DWORD WINAPI keep(void *argument)
{
    int (*volatile pointers[3])(int) = {answer, deep, looping};
    return hold((int)(INT_PTR)argument) + (pointers[0] == pointers[1]);
}

static DWORD WINAPI dive(void *argument)
{
    int result = deep((int)(INT_PTR)argument);
    sink = result;
    printf("dived %d\n", result);
    fflush(stdout);
    return 0;
}

static DWORD WINAPI loop(void *argument)
{
    (void)argument;
    spinning = 1;
    int result = looping(10);
    printf("looped %d\n", result);
    fflush(stdout);
    return 0;
}

typedef int (*Answer)(int);

static DWORD WINAPI serve(void *argument)
{
    SOCKET client = (SOCKET)argument;
    int value, done;
    while ((done = recv(client, (char *)&value, sizeof(value), MSG_WAITALL)) == sizeof(value)) {
        value = answer(value);
        InterlockedIncrement64(&total);
        if (send(client, (const char *)&value, sizeof(value), 0) != sizeof(value))
            break;
    }
    closesocket(client);
    return 0;
}

// A thread for each connection.
static DWORD WINAPI listen_for_clients(void *argument)
{
    for (;;) {
        SOCKET client = accept((SOCKET)argument, NULL, NULL);
        if (client == INVALID_SOCKET)
            return 0;
        BOOL on = TRUE;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, (const char *)&on, sizeof(on));
        CreateThread(NULL, 0, serve, (void *)client, 0, NULL);
    }
}

static int open_port(void)
{
    WSADATA data;
    struct sockaddr_in at = {0};
    int size = sizeof(at);
    WSAStartup(MAKEWORD(2, 2), &data);
    SOCKET listener = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 64))
        return -1;
    getsockname(listener, (struct sockaddr *)&at, &size);
    CreateThread(NULL, 0, listen_for_clients, (void *)listener, 0, NULL);
    return ntohs(at.sin_port);
}

// Nanoseconds for one request of 1 KiB, the best of several rounds.
static double time_of_request(void)
{
    static unsigned char bytes[1024];
    LARGE_INTEGER start, end, frequency;
    double best = 1e18;
    QueryPerformanceFrequency(&frequency);
    for (int round = 0; round < 40; round++) {
        QueryPerformanceCounter(&start);
        for (int i = 0; i < 5000; i++) {
            bytes[i & 1023] = (unsigned char)i;
            sink = (LONG)request(bytes, sizeof(bytes));
        }
        QueryPerformanceCounter(&end);
        double time = (end.QuadPart - start.QuadPart) * 1e9 / frequency.QuadPart / 5000;
        if (time < best)
            best = time;
    }
    return best;
}

int main(int count, char **arguments)
{
    char line[64];
    HMODULE plugin = NULL;
    int threads = count > 1 ? atoi(arguments[1]) : 8;
    paced = count > 2;
    HANDLE *all = calloc(threads, sizeof(HANDLE));
    for (int i = 0; i < threads; i++)
        all[i] = CreateThread(NULL, 0, work, (void *)(INT_PTR)(i * 1000), 0, NULL);
    printf("ready %lu answer %d twice %d\n", GetCurrentProcessId(), answer(10), twice(10));
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        switch (line[0]) {
        case 'a':
            printf("answer %d twice %d\n", answer(10), twice(10));
            break;
        case 'h':
            CreateThread(NULL, 0, keep, NULL, 0, NULL);
            while (!held)
                Sleep(1);
            printf("held\n");
            break;
        case 'k':
            CreateThread(NULL, 0, keep_loader, NULL, 0, NULL);
            while (!held)
                Sleep(1);
            printf("held\n");
            break;
        case 'x':
            hook();
            printf("hooked\n");
            break;
        case 'o':
            printf("outer %d\n", outer(1));
            break;
        case 'l':
            held = 0;
            Sleep(20);
            printf("let go\n");
            break;
        case 'c': {
            // Until the workers have got on: on a busy machine that takes a while, where they stand still it takes for ever.
            LONG64 before = total;
            for (int i = 0; i < 300 && total == before; i++)
                Sleep(100);
            printf("total %lld wrong %ld hits %ld\n", total - before, wrong, hits);
            break;
        }
        case 'w': {
            // Does every worker get on?
            LONG before[64], waiting = threads;
            memcpy(before, (void *)rounds, sizeof(before));
            for (int i = 0; i < 300 && waiting; i++) {
                Sleep(i ? 20 : 1);
                waiting = 0;
                for (int worker = 0; worker < threads && worker < 64; worker++)
                    waiting += rounds[worker] == before[worker];
            }
            printf("waiting %ld\n", waiting);
            break;
        }
        case 'r':
            CreateThread(NULL, 0, dive, (void *)40, 0, NULL);
            while (!held)
                Sleep(1);
            printf("deep\n");
            break;
        case 'y':
            held = 1;
            CreateThread(NULL, 0, loop, NULL, 0, NULL);
            while (!spinning)
                Sleep(1);
            Sleep(20);
            printf("looping\n");
            break;
        case 'e':
            printf("caught %d\n", catcher());
            break;
        case 's':
            printf("port %d\n", open_port());
            break;
        case 't':
            printf("request %.2f\n", time_of_request());
            break;
        case 'z':
            printf("looping %d\n", looping(10));
            break;
        case 'p':
            printf("crossing %d\n", crossing(10));
            break;
        case 'd':
            plugin = LoadLibraryA("plugin.dll");
            printf("plugin %d\n", plugin ? ((Answer)(void *)GetProcAddress(plugin, "plugged"))(10) : -1);
            break;
        case 'u':
            printf("unloaded %d\n", FreeLibrary(plugin) && !GetModuleHandleA("plugin.dll"));
            break;
        case 'q':
            stop = 1;
            for (int i = 0; i < threads; i++)
                WaitForSingleObject(all[i], 10000);
            printf("wrong %ld\n", wrong);
            fflush(stdout);
            return 7;
        }
        fflush(stdout);
    }
    return 8;
}
