// Example of a service that patches itself: it answers, applies a patch when told so, and says what is active in it.
//
//     service.exe POLICY PATCH
//
// Commands on standard input, one letter a line: a (answer), p (patch), r (roll back), s (state), q (quit).

#include <stdio.h>
#include <stdlib.h>
#include "hotgraft_agent.h"

__declspec(dllexport) volatile int seen = 0;

// The function that is patched: one more.
__declspec(dllexport) __attribute__((noinline)) int answer(int value)
{
    seen = value;
    return value + 1;
}

int main(int count, char **arguments)
{
    char line[64], message[1024] = "";
    if (count < 3)
        return 2;
    printf("ready %u\n", (unsigned)hotgraft_agent_version());
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        uint32_t active = 0;
        size_t size = 0;
        char *json;
        switch (line[0]) {
        case 'a':
            printf("answer %d\n", answer(10));
            break;
        case 'p':
            printf("applied %d\n", (int)hotgraft_agent_apply(arguments[2], arguments[1], message, sizeof(message)));
            break;
        case 'r':
            printf("rolled back %d\n", (int)hotgraft_agent_rollback(NULL, message, sizeof(message)));
            break;
        case 's':
            if (hotgraft_agent_active("service.exe", &active) != HOTGRAFT_OK)
                return 3;
            // Ask for the size, then for the state.
            if (hotgraft_agent_query(NULL, &size) != HOTGRAFT_SIZE || !(json = malloc(size)))
                return 4;
            if (hotgraft_agent_query(json, &size) != HOTGRAFT_OK)
                return 5;
            printf("active %u %s\n", (unsigned)active, json);
            free(json);
            break;
        case 'm':
            // The last message, on one line.
            for (char *at = message; *at; at++)
                if (*at == '\n' || *at == '\r')
                    *at = ' ';
            printf("message %s\n", message);
            break;
        case 'q':
            return 7;
        }
        fflush(stdout);
    }
    return 8;
}
