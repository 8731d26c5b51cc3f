/* The machine's limit, and a load generator that costs little.

   limit worker FD                   echoes frames on an inherited socket, one at a time
   limit dispatch PATH FD...         listens on PATH, hands each client frame to an idle worker on FD..., returns the answer
   limit load ...                    closed-loop clients of frame or HTTP servers, see usage()

   A frame is u32 big-endian length + body; bytes 7..10 of a framed call (body offset 3) hold its number, which a server echoes at the
   same place. The dispatcher does no more than queue and forward: accounting, limits and deadlines are what an engine adds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 4096

static void die(const char *what) { perror(what); exit(1); }

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static uint32_t get32(const unsigned char *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static void put32(unsigned char *p, uint32_t v) { p[0] = v >> 24; p[1] = v >> 16; p[2] = v >> 8; p[3] = v; }

/* Growing buffer: bytes [at, have) are unread. */
struct buffer { unsigned char *data; size_t at, have, cap; };

static void reserve(struct buffer *b, size_t more) {
    if (b->at == b->have) b->at = b->have = 0;
    if (b->have + more <= b->cap) return;
    if (b->at) { memmove(b->data, b->data + b->at, b->have - b->at); b->have -= b->at; b->at = 0; }
    if (b->have + more > b->cap) {
        while (b->cap < b->have + more) b->cap = b->cap ? b->cap * 2 : 65536;
        b->data = realloc(b->data, b->cap);
        if (!b->data) die("realloc");
    }
}

static void append(struct buffer *b, const void *p, size_t n) { reserve(b, n); memcpy(b->data + b->have, p, n); b->have += n; }

/* Reads what is there; 0 at the end of the stream. */
static ssize_t fill(int fd, struct buffer *b, size_t size) {
    reserve(b, size);
    ssize_t n = read(fd, b->data + b->have, size);
    if (n > 0) b->have += n;
    return n;
}

/* Size of the whole frame at the front, prefix included; 0 when it is not complete. */
static size_t frame_at(const struct buffer *b) {
    size_t have = b->have - b->at;
    if (have < 4) return 0;
    size_t size = 4 + (size_t)get32(b->data + b->at);
    return have >= size ? size : 0;
}

static void write_all(int fd, const unsigned char *p, size_t n) {
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0) { if (errno == EINTR) continue; die("write"); }
        p += k; n -= k;
    }
}

static void worker(int fd) {
    struct buffer in = {0};
    for (;;) {
        size_t size;
        while (!(size = frame_at(&in))) {
            size_t want = in.have - in.at >= 4 ? 4 + get32(in.data + in.at) - (in.have - in.at) : 65536;
            if (fill(fd, &in, want < 65536 ? 65536 : want) <= 0) exit(0);
        }
        write_all(fd, in.data + in.at, size);
        in.at += size;
    }
}

/* Dispatcher. */
struct peer { int fd, is_worker, client, want_out; struct buffer in, out; };
static struct peer *peers[MAX_FDS];
static int ep, idle[MAX_FDS], idle_n;
static struct { int client; size_t size; unsigned char *data; } *queue;
static size_t q_head, q_tail, q_cap;

static void watch(struct peer *p, int op) {
    struct epoll_event e = {.events = EPOLLIN | (p->want_out ? EPOLLOUT : 0), .data.fd = p->fd};
    if (epoll_ctl(ep, op, p->fd, &e)) die("epoll_ctl");
}

static void flush_out(struct peer *p) {
    while (p->out.at < p->out.have) {
        ssize_t n = write(p->fd, p->out.data + p->out.at, p->out.have - p->out.at);
        if (n < 0) {
            if (errno == EAGAIN) { if (!p->want_out) { p->want_out = 1; watch(p, EPOLL_CTL_MOD); } return; }
            p->out.at = p->out.have;
            return;
        }
        p->out.at += n;
    }
    if (p->want_out) { p->want_out = 0; watch(p, EPOLL_CTL_MOD); }
}

static void send_to(struct peer *p, const unsigned char *d, size_t n) {
    if (p->out.at == p->out.have) {
        ssize_t k = write(p->fd, d, n);
        if (k < 0) k = 0;
        d += k; n -= k;
        if (!n) return;
    }
    append(&p->out, d, n);
    flush_out(p);
}

static void give(int worker_fd, int client, const unsigned char *d, size_t n) {
    peers[worker_fd]->client = client;
    send_to(peers[worker_fd], d, n);
}

static struct peer *add_peer(int fd, int is_worker) {
    if (fd >= MAX_FDS) { fprintf(stderr, "too many connections\n"); exit(1); }
    struct peer *p = calloc(1, sizeof *p);
    p->fd = fd; p->is_worker = is_worker;
    peers[fd] = p;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    watch(p, EPOLL_CTL_ADD);
    return p;
}

static void frames_from(struct peer *p) {
    size_t size;
    while ((size = frame_at(&p->in))) {
        unsigned char *d = p->in.data + p->in.at;
        p->in.at += size;
        if (p->is_worker) {
            /* The next request goes to the worker before the answer goes to the client. */
            int client = p->client;
            if (q_head != q_tail) {
                give(p->fd, queue[q_head].client, queue[q_head].data, queue[q_head].size);
                free(queue[q_head].data);
                q_head = (q_head + 1) % q_cap;
            } else
                idle[idle_n++] = p->fd;
            if (peers[client]) send_to(peers[client], d, size);
        } else if (idle_n)
            give(idle[--idle_n], p->fd, d, size);
        else {
            if ((q_tail + 1) % q_cap == q_head) { fprintf(stderr, "queue full\n"); exit(1); }
            queue[q_tail].client = p->fd; queue[q_tail].size = size;
            queue[q_tail].data = malloc(size);
            memcpy(queue[q_tail].data, d, size);
            q_tail = (q_tail + 1) % q_cap;
        }
    }
}

static int listen_unix(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strncpy(a.sun_path, path, sizeof a.sun_path - 1);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 512)) die(path);
    return s;
}

static void dispatch(const char *path, int n, char **fds) {
    ep = epoll_create1(0);
    q_cap = 65536;
    queue = calloc(q_cap, sizeof *queue);
    for (int i = 0; i < n; i++) { add_peer(atoi(fds[i]), 1); idle[idle_n++] = atoi(fds[i]); }
    int ls = listen_unix(path);
    add_peer(ls, 0);
    struct epoll_event events[64];
    for (;;) {
        int k = epoll_wait(ep, events, 64, -1);
        for (int i = 0; i < k; i++) {
            int fd = events[i].data.fd;
            if (fd == ls) { add_peer(accept(ls, 0, 0), 0); continue; }
            struct peer *p = peers[fd];
            if (events[i].events & EPOLLOUT) flush_out(p);
            if (!(events[i].events & (EPOLLIN | EPOLLHUP))) continue;
            ssize_t got = fill(fd, &p->in, p->in.have > p->in.at ? 1 << 20 : 65536);
            if (got > 0) frames_from(p);
            else if (got == 0 || errno != EAGAIN) {
                if (p->is_worker) exit(1);
                close(fd); peers[fd] = 0;
            }
        }
    }
}

/* Load: closed loop. */
#define SUB 128 /* sub-buckets per power of two: 0.8 % */
static uint64_t counts[64 * SUB];

static void record(int64_t ns) {
    int shift = 0;
    uint64_t v = ns < 1 ? 1 : ns;
    while (v >> shift >= 2 * SUB) shift++;
    counts[shift * SUB + (v >> shift)]++; /* index SUB*shift + top bits; top bits are SUB..2*SUB-1 once shift > 0 */
}

struct conn { int fd; struct buffer in; size_t sent_at; uint32_t free_ids[4096]; int free_n; int64_t start[4096]; int open; };

static int dial(const char *address) {
    int s;
    if (strchr(address, '/')) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        strncpy(a.sun_path, address, sizeof a.sun_path - 1);
        s = socket(AF_UNIX, SOCK_STREAM, 0);
        if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof a)) die(address);
        return s;
    }
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(strchr(address, ':') + 1))};
    char host[64] = {0};
    strncpy(host, address, strchr(address, ':') - address < 63 ? strchr(address, ':') - address : 63);
    inet_pton(AF_INET, host, &a.sin_addr);
    s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof a)) die(address);
    int one = 1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return s;
}

static unsigned char *read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f) die(path);
    fseek(f, 0, SEEK_END);
    *size = ftell(f);
    rewind(f);
    unsigned char *d = malloc(*size + 1);
    if (*size && fread(d, *size, 1, f) != 1) die(path);
    fclose(f);
    return d;
}

/* Whole size of the HTTP answer at the front with *ok set when its status is 200 to 209; 0 when it is not complete. */
static size_t http_at(const struct buffer *b, int *ok) {
    char *p = (char *)b->data + b->at, *end = memmem(p, b->have - b->at, "\r\n\r\n", 4);
    if (!end) return 0;
    *ok = !memcmp(p, "HTTP/1.1 20", 11);
    for (char *line = p; line && line < end; line = memmem(line, end - line, "\r\n", 2)) {
        if (line != p) line += 2;
        if (!strncasecmp(line, "content-length:", 15)) {
            size_t size = end + 4 - p + strtoul(line + 15, 0, 10);
            return b->have - b->at >= size ? size : 0;
        }
        line++;
    }
    fprintf(stderr, "an answer without content-length\n");
    exit(1);
}

static void usage(void) {
    fprintf(stderr, "limit load http|frames ADDRESS PREAMBLE_FILE REQUEST_FILE CONNECTIONS DEPTH SECONDS COUNT ANSWER_STATUS\n");
    exit(2);
}

static void load(char **v) {
    int http = !strcmp(v[0], "http"), connections = atoi(v[4]), depth = atoi(v[5]), checked = atoi(v[8]);
    size_t pre_n, req_n, greeting = 0;
    unsigned char *pre = read_file(v[2], &pre_n), *req = read_file(v[3], &req_n);
    double seconds = atof(v[6]);
    long count = atol(v[7]), sent = 0, done = 0, errors = 0;
    if (depth > 4096 || (http && depth != 1)) usage();
    struct conn *cs = calloc(connections, sizeof *cs);
    ep = epoll_create1(0);
    for (int i = 0; i < connections; i++) {
        cs[i].fd = dial(v[1]);
        cs[i].open = 1;
        if (pre_n) {
            write_all(cs[i].fd, pre, pre_n);
            while (!(greeting = frame_at(&cs[i].in))) if (fill(cs[i].fd, &cs[i].in, 4096) <= 0) die("handshake");
            cs[i].in.at += greeting;
        }
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(ep, EPOLL_CTL_ADD, cs[i].fd, &e);
    }
    int64_t begin = now_ns(), stop = begin + (int64_t)(seconds * 1e9), t = begin;
    struct buffer out = {0};
    for (int i = 0; i < connections; i++) {
        for (int d = 0; d < depth && sent < count; d++, sent++) {
            if (!http) put32(req + 7, d);
            cs[i].start[d] = now_ns();
            write_all(cs[i].fd, req, req_n);
        }
    }
    struct epoll_event events[64];
    size_t chunk = 65536;
    while (done < sent) {
        int k = epoll_wait(ep, events, 64, 10000);
        if (k == 0) { fprintf(stderr, "no answer for 10 s, %ld of %ld answered\n", done, sent); exit(1); }
        for (int i = 0; i < k; i++) {
            struct conn *c = &cs[events[i].data.u32];
            ssize_t got = fill(c->fd, &c->in, chunk);
            if (got <= 0) { fprintf(stderr, "the server closed a connection after %ld answers\n", done); exit(1); }
            if ((size_t)got == chunk && chunk < 1 << 20) chunk *= 2;
            t = now_ns();
            out.at = out.have = 0;
            for (;;) {
                int ok = 1;
                size_t size = http ? http_at(&c->in, &ok) : frame_at(&c->in);
                if (!size) break;
                const unsigned char *d = c->in.data + c->in.at;
                uint32_t id = http ? 0 : get32(d + 7);
                if (!http && checked) ok = d[11] == 0xcd && d[12] == (checked >> 8) && d[13] == (checked & 255);
                if (!http && id >= (uint32_t)depth) { fprintf(stderr, "answer to unknown call %u\n", id); exit(1); }
                c->in.at += size;
                record(t - c->start[id]);
                done++;
                errors += !ok;
                if (t < stop && sent < count) {
                    if (!http) put32(req + 7, id);
                    append(&out, req, req_n);
                    c->start[id] = t;
                    sent++;
                }
            }
            if (out.have) write_all(c->fd, out.data, out.have);
        }
    }
    printf("%ld %ld %lld\n", done, errors, (long long)(t - begin));
    for (int i = 0; i < 64 * SUB; i++)
        if (counts[i]) {
            int shift = i < 2 * SUB ? 0 : i / SUB - 1;
            uint64_t low = (uint64_t)(i - shift * SUB) << shift;
            printf("%llu %llu\n", (unsigned long long)(low + ((1ULL << shift) >> 1)), (unsigned long long)counts[i]);
        }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "worker")) worker(atoi(argv[2]));
    else if (argc >= 4 && !strcmp(argv[1], "dispatch")) dispatch(argv[2], argc - 3, argv + 3);
    else if (argc == 11 && !strcmp(argv[1], "load")) load(argv + 2);
    else usage();
    return 0;
}
