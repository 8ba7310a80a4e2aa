// A record service on the loopback: worker threads take connections, each line is a request, each answer one line.
//
//     read RECORD LENGTH    the first LENGTH bytes of a record
//     state                 uptime in ticks, requests served, lines in the log, the workers' thread ids
//     stop                  ends the service
//
// The old build answers with as many bytes as the request asks for, whatever the record holds.

#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))
#define WORKERS 3
#define LINE 160

struct record {
    const char *name;
    unsigned length;
    char text[24];
};

// What lies behind the last record is nobody's to read.
static struct {
    struct record records[2];
    char key[32];
} store = {
    {{"motd", 12, "welcome back"}, {"contact", 14, "desk@localhost"}},
    "key=correct-horse-battery",
};

static SOCKET listener;
static volatile LONG ticks, requests, log_lines;
static DWORD worker_ids[WORKERS];
static FILE *log_file;
static CRITICAL_SECTION log_lock;

static NOINLINE void log_line(const char *request)
{
    EnterCriticalSection(&log_lock);
    log_lines++;
    fprintf(log_file, "%ld %ld %s\n", (long)log_lines, (long)ticks, request);
    fflush(log_file);
    LeaveCriticalSection(&log_lock);
}

static NOINLINE const struct record *find(const char *name)
{
    for (unsigned i = 0; i < 2; i++)
        if (strcmp(store.records[i].name, name) == 0)
            return &store.records[i];
    return NULL;
}

#ifdef NEW
static NOINLINE int within_record(const struct record *record, unsigned long length)
{
    return length <= record->length;
}
#endif

static NOINLINE void answer_read(const char *name, unsigned long length, char *answer)
{
    const struct record *record = find(name);
    if (record == NULL) {
        strcpy(answer, "error: no such record\n");
        return;
    }
#ifdef NEW
    if (!within_record(record, length)) {
        sprintf(answer, "error: the record has only %u bytes\n", record->length);
        return;
    }
#endif
    unsigned long at = 0;
    for (; at < length && at < LINE - 2; at++)
        answer[at] = record->text[at] ? record->text[at] : '.';
    answer[at] = '\n';
    answer[at + 1] = 0;
}

static NOINLINE void answer_state(char *answer)
{
    int at = sprintf(answer, "ticks=%ld requests=%ld log=%ld workers=", (long)ticks, (long)requests, (long)log_lines);
    for (int i = 0; i < WORKERS; i++)
        at += sprintf(answer + at, i ? ",%lu" : "%lu", (unsigned long)worker_ids[i]);
    strcpy(answer + at, "\n");
}

static NOINLINE int answer_request(char *request, char *answer)
{
    InterlockedIncrement(&requests);
    log_line(request);
    char *verb = strtok(request, " ");
    char *name = strtok(NULL, " ");
    char *length = strtok(NULL, " ");
    if (verb && strcmp(verb, "read") == 0 && name && length)
        answer_read(name, strtoul(length, NULL, 10), answer);
    else if (verb && strcmp(verb, "state") == 0)
        answer_state(answer);
    else if (verb && strcmp(verb, "stop") == 0)
        return 0;
    else
        strcpy(answer, "error: bad request\n");
    return 1;
}

// One line without its end; 0 when the other side has closed.
static NOINLINE int receive_line(SOCKET peer, char *line)
{
    int at = 0;
    char one;
    while (recv(peer, &one, 1, 0) == 1) {
        if (one == '\n') {
            line[at] = 0;
            return 1;
        }
        if (at < LINE - 1 && one != '\r')
            line[at++] = one;
    }
    return 0;
}

static NOINLINE void serve(SOCKET peer)
{
    char request[LINE], answer[LINE + 64];
    while (receive_line(peer, request)) {
        if (!answer_request(request, answer))
            ExitProcess(0);
        send(peer, answer, (int)strlen(answer), 0);
    }
    closesocket(peer);
}

static DWORD WINAPI worker(LPVOID index)
{
    worker_ids[(size_t)index] = GetCurrentThreadId();
    for (;;) {
        SOCKET peer = accept(listener, NULL, NULL);
        if (peer != INVALID_SOCKET)
            serve(peer);
    }
}

static DWORD WINAPI clock_thread(LPVOID unused)
{
    (void)unused;
    for (;;) {
        Sleep(100);
        InterlockedIncrement(&ticks);
    }
}

static int fail(const char *what)
{
    fprintf(stderr, "service: %s (%d)\n", what, WSAGetLastError());
    return 1;
}

int main(int count, char **arguments)
{
    WSADATA data;
    struct sockaddr_in address = {0};
    int size = sizeof address;
    log_file = fopen(count > 1 ? arguments[1] : "service.log", "w");
    if (log_file == NULL)
        return fail("cannot open the log");
    InitializeCriticalSection(&log_lock);
    if (WSAStartup(MAKEWORD(2, 2), &data) != 0)
        return fail("no sockets");
    listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0)
        return fail("cannot listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    CreateThread(NULL, 0, clock_thread, NULL, 0, NULL);
    for (size_t i = 0; i < WORKERS; i++)
        CreateThread(NULL, 0, worker, (LPVOID)i, 0, NULL);
    printf("service pid=%lu port=%u\n", (unsigned long)GetCurrentProcessId(), ntohs(address.sin_port));
    fflush(stdout);
    Sleep(INFINITE);
    return 0;
}
