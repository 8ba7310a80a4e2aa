// Drives libxml2.dll or libtiff.dll over the files that it is given, round after round, and prints a line for each round: a
// hash of what came of each file. `library_host.exe DLL FILE...`; ends at the end of its input.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

static HMODULE library;
static volatile LONG ended = 0;

static uint64_t hash(uint64_t state, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;
    while (size--)
        state = (state ^ *at++) * 0x100000001b3u;
    return state;
}

static void *get(const char *name)
{
    void *found = (void *)GetProcAddress(library, name);
    if (!found) {
        fprintf(stderr, "no %s\n", name);
        exit(3);
    }
    return found;
}

// A document: parsed with its entities, written again, and what the parser says of it.
static uint64_t xml(const char *name, int html)
{
    void *(*read_xml)(const char *, const char *, int) = get("xmlReadFile");
    void *(*read_html)(const char *, const char *, int) = get("htmlReadFile");
    void (*dump)(void *, unsigned char **, int *) = get(html ? "htmlDocDumpMemory" : "xmlDocDumpMemory");
    void (*release)(void *) = get("xmlFreeDoc");
    void (**release_text)(void *) = get("xmlFree");
    const struct { int domain, code; char *message; } *(*last)(void) = get("xmlGetLastError");
    void (*forget)(void) = get("xmlResetLastError");
    uint64_t state = 0xcbf29ce484222325u;
    forget();
    // No network, entities and DTD read, nothing printed.
    void *document = html ? read_html(name, NULL, 1 | 32 | 64) : read_xml(name, NULL, 2 | 4 | 32 | 64 | 2048);
    if (last()) {
        state = hash(state, &last()->code, sizeof(int));
        if (last()->message)
            state = hash(state, last()->message, strlen(last()->message));
    }
    if (document) {
        unsigned char *text = NULL;
        int size = 0;
        dump(document, &text, &size);
        state = hash(state, text, text ? size : 0);
        if (text)
            (*release_text)(text);
        release(document);
    }
    return state;
}

// An image: every directory of it as pixels.
static uint64_t tiff(const char *name)
{
    void *(*open)(const char *, const char *) = get("TIFFOpen");
    int (*field)(void *, uint32_t, ...) = get("TIFFGetField");
    int (*pixels)(void *, uint32_t, uint32_t, uint32_t *, int) = get("TIFFReadRGBAImage");
    int (*next)(void *) = get("TIFFReadDirectory");
    void (*close)(void *) = get("TIFFClose");
    void *(*errors)(void *) = get("TIFFSetErrorHandler"), *(*warnings)(void *) = get("TIFFSetWarningHandler");
    uint64_t state = 0xcbf29ce484222325u;
    errors(NULL);
    warnings(NULL);
    void *image = open(name, "r");
    for (int directory = 0; image && directory < 8; directory++) {
        uint32_t width = 0, height = 0;
        field(image, 256, &width);
        field(image, 257, &height);
        state = hash(hash(state, &width, 4), &height, 4);
        if (width && height && (uint64_t)width * height <= 1 << 22) {
            uint32_t *raster = calloc((size_t)width * height, 4);
            int read = pixels(image, width, height, raster, 0);
            state = hash(hash(state, &read, sizeof(read)), raster, (size_t)width * height * 4);
            free(raster);
        }
        int more = next(image);
        state = hash(state, &more, sizeof(more));
        if (!more)
            break;
    }
    if (image)
        close(image);
    return state;
}

static DWORD WINAPI wait_for_the_end(void *argument)
{
    (void)argument;
    while (getchar() != EOF)
        ;
    ended = 1;
    return 0;
}

int main(int count, char **arguments)
{
    if (count < 3 || !(library = LoadLibraryA(arguments[1])))
        return 2;
    int is_tiff = strstr(arguments[1], "tiff") != NULL;
    CreateThread(NULL, 0, wait_for_the_end, NULL, 0, NULL);
    printf("ready %lu\n", GetCurrentProcessId());
    fflush(stdout);
    while (!ended) {
        for (int i = 2; i < count; i++)
            printf("%s%016llx", i > 2 ? " " : "",
                   (unsigned long long)(is_tiff ? tiff(arguments[i]) : xml(arguments[i], i % 3 == 0)));
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
