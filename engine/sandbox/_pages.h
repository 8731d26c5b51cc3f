/* The pages under a zygote's objects, for _layout.c. See layout.py.

   What many forks share is best kept on large pages: the kernel copies one entry of a page table, or one run of entries, where it had to copy hundreds, and
   drops them as fast. What every fork writes to is best copied all at once: each page by itself is an interruption. */

#define PAGE 4096
#define LARGE_PAGE ((size_t)2 << 20)
/* More than any interpreter imports. Only what is used of it is ever readable or counts. */
#define LAND ((size_t)64 << 20)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define MOST_PAGES (1 << 16)
#define MOST_MAPPINGS 2048
#define MOST_MOVED 64

struct arena_allocator {
    void *context;
    void *(*alloc)(void *, size_t);
    void (*free)(void *, void *, size_t);
};
struct range {
    char *at;
    size_t length;
};
/* A line of /proc/.../maps: file is an inode, 0 for none. */
struct mapping {
    uint64_t from, to, offset, file;
    int writes, executes, shared;
};

extern void PyObject_GetArenaAllocator(struct arena_allocator *) __attribute__((weak));
extern void PyObject_SetArenaAllocator(struct arena_allocator *) __attribute__((weak));

/* What is written to in finding out which pages are: these are not found. */
static struct {
    char maps[1 << 20];
    struct mapping mappings[MOST_MAPPINGS];
    uint64_t entries[PAGE], own[MOST_PAGES];
} __attribute__((aligned(PAGE))) scratch;

static char *land, *land_next, *land_open, *land_end, *heap;
static struct arena_allocator arenas_before;
static uint64_t *seen;
/* First those that are of no file. */
static struct range *written;
static long n_of_none, n_written;
/* Libraries' data that has been put on large pages. */
static struct range moved[MOST_MOVED];
static int n_moved;

static int open_of(const char *process, const char *what) {
    char path[64] = "/proc/";
    return open(strcat(strcat(strcat(path, process), "/"), what), O_RDONLY | O_CLOEXEC);
}

/* Its mappings into scratch.mappings: how many, -1 if they cannot be read. Nothing here allocates. */
static long read_maps(const char *process) {
    long n = 0, length = 0, got;
    char *line, *rest;
    int fd = open_of(process, "maps");
    if (fd < 0)
        return -1;
    while ((got = read(fd, scratch.maps + length, sizeof scratch.maps - 1 - (size_t)length)) > 0)
        length += got;
    close(fd);
    scratch.maps[length] = 0;
    /* 7f4d99244000-7f4d9939a000 r-xp 00026000 fe:00 326269 /usr/lib/... */
    for (line = scratch.maps; line && *line && n < MOST_MAPPINGS; line = strchr(line, '\n'), line += line != NULL) {
        struct mapping *one = &scratch.mappings[n++];
        one->from = strtoull(line, &rest, 16);
        one->to = strtoull(rest + 1, &rest, 16);
        one->writes = rest[2] == 'w';
        one->executes = rest[3] == 'x';
        one->shared = rest[4] == 's';
        one->offset = strtoull(rest + 6, &rest, 16);
        rest = strchr(rest + 1, ' ');
        one->file = rest ? strtoull(rest, NULL, 10) : 0;
    }
    return n;
}

/* Numbers of the pages that only that process has, in order: what it has written to since it was forked. process: its number in digits, or "self". How many
   were put into scratch.own, -1 if that cannot be found out. Nothing here allocates: it would be found too. */
static long own_pages(const char *process) {
    const uint64_t present = 1ull << 63, of_file = 1ull << 61, alone = 1ull << 56;
    const uint64_t ours = (uintptr_t)&scratch / PAGE, ours_end = ours + sizeof scratch / PAGE;
    /* Where pages are larger (arm64 has such kernels) nothing here holds: what is told of one would be taken for another, and given up with its neighbours. */
    long n_mappings = sysconf(_SC_PAGESIZE) == PAGE ? read_maps(process) : -1, found = 0, m, got;
    int pagemap = n_mappings < 0 ? -1 : open_of(process, "pagemap");
    if (pagemap < 0)
        return -1;
    for (m = 0; m < n_mappings; m++) {
        uint64_t from = scratch.mappings[m].from / PAGE, to = scratch.mappings[m].to / PAGE;
        if (!scratch.mappings[m].writes)
            continue;
        while (from < to && found < MOST_PAGES) {
            uint64_t n = to - from < PAGE ? to - from : PAGE, i;
            got = pread(pagemap, scratch.entries, n * sizeof *scratch.entries, (off_t)(from * sizeof *scratch.entries));
            if (got <= 0)
                break;
            n = (uint64_t)got / sizeof *scratch.entries;
            for (i = 0; i < n && found < MOST_PAGES; i++)
                if (scratch.entries[i] & present && scratch.entries[i] & alone && !(scratch.entries[i] & of_file) && (from + i < ours || from + i >= ours_end))
                    scratch.own[found++] = from + i;
            from += n;
        }
    }
    close(pagemap);
    return found;
}

/* A fork that keeps what this process has now and writes to nothing: what this one writes to later is then not alone in another fork's memory, as if that had
   written to it. Its number, -1 when it cannot be made. */
long pages_guard(void) {
    long parent = syscall(SYS_getpid), pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid)
        return pid;
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    /* It may have ended before. */
    if (syscall(SYS_getppid) != parent)
        syscall(SYS_exit_group, 0);
    syscall(SYS_close_range, 0, ~0U, 0);
    for (;;)
        syscall(SYS_ppoll, NULL, 0, NULL, NULL, 8);
}

/* How many pages only this process has, -1 if that cannot be found out. */
long pages_own(void) {
    return own_pages("self");
}

/* In the zygote, before the fork that shows what is written to. 0, or -1 without memory. */
long pages_watch(void) {
    void *p = mmap(NULL, sizeof scratch.own + sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    seen = p == MAP_FAILED ? NULL : p;
    return seen ? 0 : -1;
}

/* In that fork: which process has written. */
void pages_seen(const char *process) {
    long n = own_pages(process);
    if (n > 0) {
        memcpy(seen + 1, scratch.own, (size_t)n * sizeof *seen);
        seen[0] = (uint64_t)n;
    }
}

/* Those of the pages seen that are this process's own, and are of a file or of none: how many. */
static long keep_those(int of_file, long n_mappings) {
    long kept = 0, m = 0, first = n_written;
    uint64_t i;
    for (i = 1; i <= seen[0]; i++) {
        uint64_t from = seen[i] * PAGE;
        char *at = (char *)from;
        while (m < n_mappings && scratch.mappings[m].to <= from)
            m++;
        if (m >= n_mappings || scratch.mappings[m].from > from || !scratch.mappings[m].writes || (scratch.mappings[m].file != 0) != of_file)
            continue;
        kept++;
        if (n_written > first && written[n_written - 1].at + written[n_written - 1].length == at)
            written[n_written - 1].length += PAGE;
        else
            written[n_written++] = (struct range){at, PAGE};
    }
    return kept;
}

/* In the zygote, after the fork's end: how many of its own pages these were. What that fork had more than this process, as where its heap grew, is nothing here,
   and no kernel copies a list of pages of which one is nothing. */
long pages_keep(void) {
    long kept, n_mappings;
    written = seen[0] ? malloc(seen[0] * sizeof *written) : NULL;
    n_mappings = written ? read_maps("self") : 0;
    n_written = 0;
    kept = keep_those(0, n_mappings);
    n_of_none = n_written;
    kept += keep_those(1, n_mappings);
    munmap(seen, sizeof scratch.own + sizeof *seen);
    return kept;
}

static char *aligned(char *p) {
    return (char *)(((uintptr_t)p + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1));
}

static void *take_arena(void *context, size_t size) {
    char *p = land_next;
    (void)context;
    if (size > (size_t)(land_end - land_next))
        return arenas_before.alloc(arenas_before.context, size);
    while (land_next + size > land_open) {
        if (mprotect(land_open, LARGE_PAGE, PROT_READ | PROT_WRITE))
            return NULL;
        land_open += LARGE_PAGE;
    }
    land_next += size;
    return p;
}

static void give_arena_back(void *context, void *p, size_t size) {
    (void)context;
    if ((char *)p < land || (char *)p >= land_end)
        arenas_before.free(arenas_before.context, p, size);
    else
        madvise(p, size, MADV_DONTNEED);
}

/* From here on Python's arenas lie side by side, and the C library's heap goes on at a large page's beginning. */
static void take_land(void) {
    struct arena_allocator ours = {NULL, take_arena, give_arena_back};
    char *end = sbrk(0), *p;
    if (sbrk(aligned(end) - end) != (void *)-1)
        heap = aligned(end);
    if (!PyObject_GetArenaAllocator || !PyObject_SetArenaAllocator)
        return;
    p = mmap(NULL, LAND + LARGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return;
    land = land_next = land_open = aligned(p);
    land_end = land + LAND;
    if (land > p)
        munmap(p, (size_t)(land - p));
    if (p + LARGE_PAGE > land)
        munmap(land_end, (size_t)(p + LARGE_PAGE - land));
    PyObject_GetArenaAllocator(&arenas_before);
    PyObject_SetArenaAllocator(&ours);
}

/* On large pages, where the kernel has MADV_COLLAPSE (Linux 6.1) and such a page to give; else they stay as they are. */
static void collapse(char *from, char *to) {
    for (; from < to; from += LARGE_PAGE)
        madvise(from, LARGE_PAGE, MADV_COLLAPSE);
}

static int go_on(const struct mapping *one, const struct mapping *next) {
    return one->file && one->file == next->file && one->to == next->from && next->from - one->from == next->offset - one->offset;
}

/* A library's constants become executable, as they were in all libraries until linkers kept them apart from its code, and lie in one mapping with that: a
   third of all mappings less to copy for every fork. Whoever can write to memory of a function can have it executed anyway. What was relocated and is read-only
   since, which comes last before what can be written, is no part of it. */
static void join_mappings(void) {
    long n = read_maps("self"), m;
    for (m = 0; m + 2 < n; m++) {
        const struct mapping *one = &scratch.mappings[m], *next = one + 1;
        const struct mapping *constants = one->executes ? next : one, *code = one->executes ? one : next;
        if (one->writes || next->writes || !code->executes || constants->executes || !go_on(one, next))
            continue;
        if (constants == next && next[1].writes && next[1].file == next->file)
            continue;
        mprotect((void *)constants->from, constants->to - constants->from, PROT_READ | PROT_EXEC);
    }
}

/* One that is nobody's yet; NULL when there is none to be had. */
static char *large_page(void) {
    char *p = mmap(NULL, 2 * LARGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *page = aligned(p);
    if (p == MAP_FAILED)
        return NULL;
    if (page > p)
        munmap(p, (size_t)(page - p));
    if (page < p + LARGE_PAGE)
        munmap(page + LARGE_PAGE, (size_t)(p + LARGE_PAGE - page));
    *(volatile char *)page = 0;
    if (madvise(page, LARGE_PAGE, MADV_COLLAPSE) == 0)
        return page;
    munmap(page, LARGE_PAGE);
    return NULL;
}

/* Libraries' data, and what was relocated when they were loaded, goes to large pages too, and stays where it is for all that look there. Little of it is not
   worth the call. */
static void move_data(void) {
    enum { LEAST = 1 << 16 };
    long n = read_maps("self"), m;
    size_t used = 0;
    char *page = NULL;
    for (m = 0; m + 1 < n; m++) {
        const struct mapping *one = &scratch.mappings[m], *next = one + 1;
        int relocated = !one->writes && !one->executes && next->writes && next->file == one->file && next->from == one->to;
        size_t size = one->to - one->from;
        if (!one->file || one->shared || !(one->writes || relocated) || size < LEAST || size > LARGE_PAGE || n_moved == MOST_MOVED)
            continue;
        if (page && used + size > LARGE_PAGE)
            munmap(page + used, LARGE_PAGE - used);
        if (!page || used + size > LARGE_PAGE) {
            if (!(page = large_page()))
                return;
            used = 0;
        }
        memcpy(page + used, (const void *)one->from, size);
        mremap(page + used, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)one->from);
        moved[n_moved++] = (struct range){(char *)one->from, size};
        if (relocated)
            mprotect((void *)one->from, size, PROT_READ);
        used += size;
    }
    if (page && used < LARGE_PAGE)
        munmap(page + used, LARGE_PAGE - used);
}

/* Nobody but the zygote's forks writes here any more. What they allocate goes where it would without us. */
static void settle_land(void) {
    char *end = sbrk(0);
    join_mappings();
    move_data();
    if (heap && sbrk(aligned(end) - end) != (void *)-1)
        collapse(heap, aligned(end));
    if (!land)
        return;
    PyObject_SetArenaAllocator(&arenas_before);
    munmap(land_open, (size_t)(land_end - land_open));
    collapse(land, land_open);
}
