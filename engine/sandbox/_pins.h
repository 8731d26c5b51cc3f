/* What every fork of a zygote writes to is copied by the fork, for _layout.c. See layout.py.

   The kernel shares pages with a fork until somebody writes to one, which is an interruption, a look at who else has the page, a copy and a flushed translation.
   A page that a device may be writing to cannot be shared like that: it is copied while the fork is made (Linux 5.9), with nothing of all that. It is enough
   that the page could be written to: as a buffer that io_uring has been told of, though nothing is ever asked of it. */

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#define SYS_io_uring_register 427
#endif
#define REGISTER_BUFFERS 0

/* As linux/io_uring.h has it, of which nothing is looked at here. */
struct ring_parameters {
    uint32_t words[30];
};

/* How many of the ranges, from the first. */
static long pinned;

static int on_large_page(const char *p) {
    int i;
    for (i = 0; i < n_moved; i++)
        if (p >= moved[i].at && p < moved[i].at + moved[i].length)
            return 1;
    return (heap && p >= heap && p < (char *)sbrk(0)) || (p >= land && p < land_open);
}

/* A pin counts for the whole of a large page: it has to be on a small one. Nothing else may run here meanwhile. */
static void make_small(char *page) {
    static char contents[PAGE] __attribute__((aligned(PAGE)));
    memcpy(contents, page, PAGE);
    if (madvise(page, PAGE, MADV_DONTNEED) == 0)
        memcpy(page, contents, PAGE);
}

/* In the zygote, once it is known which pages those are. 1 when forks will copy them; 0 where there is no io_uring, or it is not for us, or too much is locked into
   memory already: then workers ask for copies themselves. */
int pages_pin(void) {
    struct ring_parameters parameters = {{0}};
    long i;
    size_t at;
    int ring;
    /* A kernel that knows this advice makes such copies too, which nothing else tells. */
    if (!n_written || madvise(written[0].at, PAGE, MADV_POPULATE_WRITE))
        return 0;
    ring = (int)syscall(SYS_io_uring_setup, 1, &parameters);
    if (ring < 0)
        return 0;
    for (i = 0; i < n_written; i++)
        for (at = 0; at < written[i].length; at += PAGE)
            if (on_large_page(written[i].at + at))
                make_small(written[i].at + at);
    /* A struct range is a struct iovec. Before Linux 6.5 none may be of a file, which libraries' data is that has not been moved. */
    if (syscall(SYS_io_uring_register, ring, REGISTER_BUFFERS, written, n_written) == 0)
        pinned = n_written;
    else if (n_of_none && syscall(SYS_io_uring_register, ring, REGISTER_BUFFERS, written, n_of_none) == 0)
        pinned = n_of_none;
    /* They are pinned for as long as the ring is open: by the zygote, whose forks close it with all else that is not theirs. */
    if (!pinned)
        close(ring);
    return pinned > 0;
}

/* In a worker: those pages become its own that are not. How many ranges are; 0 before Linux 5.14. */
long pages_touch(void) {
    long i, done = pinned;
    for (i = pinned; i < n_written; i++)
        done += !madvise(written[i].at, written[i].length, MADV_POPULATE_WRITE);
    return done;
}
