/* Where a zygote's interpreter puts its objects: those that every worker writes to side by side. See layout.py.

   Loaded before the interpreter starts (LD_PRELOAD) and in its place as Python's allocator until the zygote has imported everything. A block of memory
   is known by its place in line: the n-th of its size since the start, or since layout_mark. The order of allocations hardly depends on where things
   lie or on hash seeds, and a wrong guess costs nothing but density: blocks of ours are the C library's, which Python frees like any other.

   Built without Python's headers: zygotes run other interpreters than the engine's. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "_pages.h"
#include "_pins.h"

struct allocator {
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
};

extern void PyMem_GetAllocator(int, struct allocator *) __attribute__((weak));
extern void PyMem_SetAllocator(int, struct allocator *) __attribute__((weak));
extern void *PyObject_Malloc(size_t) __attribute__((weak));
extern void PyObject_Free(void *) __attribute__((weak));

/* Of larger blocks workers write to some pages only, and these lie wherever they lie. */
#define LARGEST (PAGE - 16)
#define PHASES 2
#define FIRST_DOMAIN 1 /* PYMEM_DOMAIN_MEM; the next is PYMEM_DOMAIN_OBJ */
#define DOMAINS 3
#define SPREAD ((size_t)256 << 20)
#define LIVE (1u << 20)
#define GONE ((uintptr_t)1)
#define MOST_KEYS (1u << 18)

enum { NOTHING, WATCH, SPREADING, USE };

/* Sorted by all of it, phase first. */
struct key {
    uint32_t phase_size, nth;
};
struct live {
    uintptr_t at;
    struct key key;
};

static int mode, hooked, phase, closed;
static uint32_t counted[PHASES][LARGEST + 1];
static uint32_t first[PHASES][LARGEST + 2];
static struct key *keys;
static void **blocks;
static uint32_t n_keys;
static struct allocator before[DOMAINS];
static struct live *table;
static uint32_t n_live;
static char *spread, *spread_end, *spread_next;
static struct key *of_page;

static int in_spread(const void *p) {
    return (const char *)p >= spread && (const char *)p < spread_end;
}

static uint32_t slot(uintptr_t at) {
    return (uint32_t)((at >> 4) * 0x9E3779B97F4A7C15ull >> 44) & (LIVE - 1);
}

static void remember(void *p, struct key key) {
    uint32_t i;
    if (!table || !p)
        return;
    if (n_live > LIVE / 4 * 3) { /* more than this is for: nothing is learnt */
        munmap(table, LIVE * sizeof *table);
        table = NULL;
        return;
    }
    for (i = slot((uintptr_t)p); table[i].at > GONE; i = (i + 1) & (LIVE - 1))
        ;
    table[i].at = (uintptr_t)p;
    table[i].key = key;
    n_live++;
}

static void forget(void *p) {
    uint32_t i, steps;
    if (!table || !p)
        return;
    for (i = slot((uintptr_t)p), steps = 0; table[i].at && steps < LIVE; i = (i + 1) & (LIVE - 1), steps++)
        if (table[i].at == (uintptr_t)p) {
            table[i].at = GONE;
            n_live--;
            return;
        }
}

/* The block meant for this allocation, NULL for most. */
static void *chosen(size_t size, struct key *key) {
    uint32_t low, high, end;
    key->phase_size = UINT32_MAX;
    if (size > LARGEST || closed)
        return NULL;
    key->phase_size = (uint32_t)phase << 16 | (uint32_t)size;
    key->nth = counted[phase][size]++;
    if (mode < SPREADING)
        return NULL;
    low = first[phase][size];
    high = end = first[phase][size + 1];
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (keys[middle].nth < key->nth)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == end || keys[low].nth != key->nth)
        return NULL;
    if (mode == USE) {
        void *block = blocks[low];
        blocks[low] = NULL;
        return block;
    }
    if (spread_next == spread_end)
        return NULL;
    of_page[(spread_next - spread) / PAGE] = *key;
    spread_next += PAGE;
    return spread_next - PAGE;
}

static void *take(void *context, size_t size) {
    struct allocator *real = context;
    struct key key;
    void *p = chosen(size, &key);
    if (!p) {
        p = real->malloc(real->context, size);
        remember(p, key);
    }
    return p;
}

static void *take_zeroed(void *context, size_t n, size_t each) {
    struct allocator *real = context;
    struct key key;
    void *p = each && n > LARGEST / each ? (key.phase_size = UINT32_MAX, NULL) : chosen(n * each, &key);
    if (p)
        return memset(p, 0, n * each);
    p = real->calloc(real->context, n, each);
    remember(p, key);
    return p;
}

static void give_back(void *context, void *p) {
    struct allocator *real = context;
    if (in_spread(p)) {
        of_page[((char *)p - spread) / PAGE].phase_size = UINT32_MAX;
        return;
    }
    forget(p);
    real->free(real->context, p);
}

static void *take_again(void *context, void *old, size_t size) {
    struct allocator *real = context;
    struct key key;
    void *block = chosen(size, &key), *p;
    if (in_spread(old)) {
        p = block ? block : real->malloc(real->context, size);
        if (!p)
            return NULL;
        memcpy(p, old, size < PAGE ? size : PAGE);
        give_back(context, old);
    } else {
        p = real->realloc(real->context, old, size);
        if (!p)
            return NULL;
        forget(old);
        if (block) {
            memcpy(block, p, size);
            real->free(real->context, p);
            p = block;
        }
    }
    if (!block)
        remember(p, key);
    return p;
}

/* Counting begins anew, for what is not to depend on what was before. */
void layout_mark(void) {
    phase = PHASES - 1;
    memset(counted[phase], 0, sizeof counted[phase]);
}

static int on_one(const uint64_t *pages, long n, uintptr_t at, size_t size) {
    uint64_t from = at / PAGE, to = (at + (size ? size - 1 : 0)) / PAGE;
    long low = 0, high = n;
    while (low < high) {
        long middle = (low + high) / 2;
        if (pages[middle] < from)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && pages[low] <= to;
}

static int by_place(const void *a, const void *b) {
    const struct key *x = a, *y = b;
    if (x->phase_size != y->phase_size)
        return x->phase_size < y->phase_size ? -1 : 1;
    return x->nth < y->nth ? -1 : x->nth > y->nth;
}

/* What is allocated from here on, in forks, is not learnt about. */
void layout_close(void) {
    closed = 1;
}

/* The keys of the blocks that a process has written to since it was forked from this one: of those spread out if they are, else of all that share a page with one.
   How many were put into out; -1 if that cannot be said. */
long layout_learn(const char *process, struct key *out, long room) {
    long found = 0, i, n;
    if (mode != SPREADING && !(mode == WATCH && table))
        return -1;
    n = own_pages(process);
    if (n < 0)
        return -1;
    if (mode == SPREADING) {
        for (i = 0; i < (spread_next - spread) / PAGE && found < room; i++)
            if (of_page[i].phase_size != UINT32_MAX && on_one(scratch.own, n, (uintptr_t)spread + (uintptr_t)i * PAGE, 1))
                out[found++] = of_page[i];
    } else {
        for (i = 0; i < LIVE && found < room; i++)
            if (table[i].at > GONE && table[i].key.phase_size != UINT32_MAX && on_one(scratch.own, n, table[i].at, table[i].key.phase_size & 0xFFFF))
                out[found++] = table[i].key;
    }
    qsort(out, (size_t)found, sizeof *out, by_place);
    return found;
}

/* Whatever is free on pages that are in use is taken for good, so that workers allocate on few pages, one after the other, in place of one here and one
   there. The last of Python's pools of a size is given back once it is known to be whole. */
static long fill_pools(size_t pool) {
    enum { HEAD = 48, SMALL = 512, MOST = 1 << 17 };
    static void *whole[(1 << 14) / 16];
    long taken = 0;
    size_t size, n, places, spent;
    for (size = 16; size <= SMALL; size += 16) {
        uintptr_t at = 0;
        places = (pool - HEAD) / size;
        for (n = spent = 0; spent < MOST; spent += size) {
            char *p = PyObject_Malloc(size);
            if (!p)
                return taken;
            taken += (long)size;
            if (((uintptr_t)p & ~(pool - 1)) != at) {
                at = ((uintptr_t)p & (pool - 1)) == HEAD ? (uintptr_t)p & ~(pool - 1) : 0;
                n = 0;
            }
            if (!at)
                continue;
            whole[n++] = p;
            if (n == places) {
                taken -= (long)(n * size);
                while (n)
                    PyObject_Free(whole[--n]);
                break;
            }
        }
    }
    return taken;
}

/* The same for the C library: until two blocks follow one another at the end of its heap. */
static long fill_heap(void) {
    enum { MOST = 1 << 18, NEAR = 1 << 19 };
    long taken = 0;
    size_t size, spent;
    for (size = LARGEST; size >= 24; size -= size > 1024 ? 256 : 16)
        for (spent = 0; spent < MOST; spent += 2 * size) {
            char *a = malloc(size), *b = malloc(size);
            if (!a || !b)
                return taken;
            if (b == a + ((size + 8 + 15) & ~(size_t)15) && a > (char *)sbrk(0) - NEAR) {
                free(b);
                free(a);
                break;
            }
            taken += 2 * (long)size;
        }
    return taken;
}

/* Python's own allocator takes over. pool: bytes of one of its pools, 0 to leave gaps alone. How much was taken to fill them. */
long layout_finish(long pool) {
    long taken;
    uint32_t i;
    int domain;
    if (hooked && mode != SPREADING) {
        for (domain = FIRST_DOMAIN; domain < DOMAINS; domain++)
            PyMem_SetAllocator(domain, &before[domain]);
        hooked = 0;
    }
    for (i = 0; blocks && i < n_keys; i++)
        free(blocks[i]);
    free(blocks);
    blocks = NULL;
    if (!pool || !PyObject_Malloc || !PyObject_Free)
        return 0;
    taken = fill_heap() + fill_pools((size_t)pool);
    if (mode == USE)
        settle_land();
    return taken;
}

static int read_keys(const char *path) {
    off_t length;
    uint32_t i, size, p;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    length = lseek(fd, 0, SEEK_END);
    n_keys = (uint32_t)(length / (off_t)sizeof *keys);
    if (length <= 0 || n_keys > MOST_KEYS || !(keys = malloc((size_t)length)) || pread(fd, keys, (size_t)length, 0) != length) {
        close(fd);
        return 0;
    }
    close(fd);
    for (i = 0; i < n_keys; i++)
        if (keys[i].phase_size >> 16 >= PHASES || (keys[i].phase_size & 0xFFFF) > LARGEST || (i && by_place(&keys[i - 1], &keys[i]) >= 0))
            return 0;
    for (p = 0, i = 0; p < PHASES; p++)
        for (size = 0; size <= LARGEST + 1; size++) {
            while (i < n_keys && keys[i].phase_size < (p << 16 | size))
                i++;
            first[p][size] = i;
        }
    return 1;
}

static void *reserved(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int ready_to(int wanted, const char *path) {
    uint32_t i;
    if (wanted == WATCH)
        return (table = reserved(LIVE * sizeof *table)) != NULL;
    if (!read_keys(path))
        return 0;
    if (wanted == SPREADING) {
        spread = spread_next = reserved(SPREAD);
        of_page = reserved(SPREAD / PAGE * sizeof *of_page);
        spread_end = spread ? spread + SPREAD : NULL;
        return spread && of_page;
    }
    if (!(blocks = calloc(n_keys, sizeof *blocks)))
        return 0;
    for (i = 0; i < n_keys; i++)
        blocks[i] = malloc(keys[i].phase_size & 0xFFFF);
    take_land();
    return 1;
}

/* LAMBDA_ENGINE_LAYOUT is a letter (watch, spread, use) and a path. Functions see neither variable, not even in /proc/self/environ. */
__attribute__((constructor)) static void begin(void) {
    extern char **environ;
    char path[PAGE] = "", letter = 0, *value = getenv("LAMBDA_ENGINE_LAYOUT"), **entry;
    int wanted, domain;
    if (!value)
        return;
    if (strlen(value) < sizeof path) {
        letter = value[0];
        strcpy(path, letter ? value + 1 : value);
    }
    for (entry = environ; *entry; entry++)
        if (!strncmp(*entry, "LAMBDA_ENGINE_LAYOUT=", 21) || !strncmp(*entry, "LD_PRELOAD=", 11)) {
            char *text = *entry, **next = entry--;
            memset(text, 0, strlen(text));
            for (; next[0]; next++)
                next[0] = next[1];
        }
    wanted = letter == 'w' ? WATCH : letter == 's' ? SPREADING : letter == 'u' ? USE : NOTHING;
    if (wanted == NOTHING || !PyMem_GetAllocator || !PyMem_SetAllocator || !ready_to(wanted, path))
        return;
    mode = wanted;
    for (domain = FIRST_DOMAIN; domain < DOMAINS; domain++) {
        struct allocator ours = {&before[domain], take, take_zeroed, take_again, give_back};
        PyMem_GetAllocator(domain, &before[domain]);
        PyMem_SetAllocator(domain, &ours);
    }
    hooked = 1;
}
