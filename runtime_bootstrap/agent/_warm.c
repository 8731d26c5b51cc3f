/* The warm invocation of a runtime behind the agent, without Python: see warm.py.

   One call runs for as long as everything is as it was the time before: an event comes, it is handed to the runtime's open poll, the answer comes
   on the same connection, then the next poll. Whatever is not exactly that ends the call before anything of it has been answered, with the bytes
   that were read, and Python goes on from there.

   Built without Python's headers: the agent's interpreter may be another one than the engine's. */

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

#define ID 36
/* Of an event, and of a request of the runtime: what is larger is not worth it. */
#define ROOM (96 * 1024)
/* Around a payload: an HTTP head, or a frame's. */
#define HEADS (4 * 1024)

/* What the runtime is at, as warm.py knows it. */
enum { READY = 0, RUNNING = 1, ANSWERED = 2 };

struct text {
    const unsigned char *at;
    size_t size;
};

struct warm {
    /* Given. ``poll``: the request for the next event. ``first``, an id, ``second``, digits, ``third``: the head of an answer. ``kind``: its
       content type in a frame. ``accepted``: what it is answered with. */
    int epoll, link, connection, timeout_ms;
    struct text poll, first, second, third, kind, accepted;
    /* Told: where it stopped; the bytes read from the link (a whole frame when an event is under way), those from the connection that are not
       dealt with; and what either of them did not take of what was sent last. */
    int state;
    size_t frame_size, asked_size;
    struct text link_rest, connection_rest;
    uint64_t invocations;
    unsigned char frame[ROOM], asked[ROOM], out[ROOM + HEADS];
};

static uint32_t u32(const unsigned char *at) { return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

static unsigned char *put_u32(unsigned char *to, uint32_t value) {
    to[0] = value >> 24;
    to[1] = value >> 16;
    to[2] = value >> 8;
    to[3] = value;
    return to + 4;
}

static unsigned char *put(unsigned char *to, const void *from, size_t size) {
    memcpy(to, from, size);
    return to + size;
}

#define PUT(to, literal) put(to, literal, sizeof literal - 1)

/* Whether all of it went; else what did not is in ``rest``. */
static int give(int fd, const unsigned char *from, size_t size, struct text *rest) {
    ssize_t sent = send(fd, from, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == (ssize_t)size) return 1;
    /* A peer that is gone shows when it is written to again. */
    if (sent < 0) sent = 0;
    rest->at = from + sent;
    rest->size = size - sent;
    return 0;
}

/* A str 8, a str 16 or nil: where it is; 0 for anything else. ``end`` moves behind it. */
static int read_text(const unsigned char **end, const unsigned char *limit, struct text *found) {
    const unsigned char *at = *end;
    if (at + 3 > limit) return 0;
    if (*at == 0xC0) found->at = at, found->size = 0, *end = at + 1;
    else if (*at == 0xD9) found->at = at + 2, found->size = at[1], *end = at + 2 + at[1];
    else if (*at == 0xDA) found->at = at + 3, found->size = at[1] << 8 | at[2], *end = found->at + found->size;
    else return 0;
    return *end <= limit;
}

/* The event in ``frame`` to the open poll. 0 when it is not one for here, and nothing has happened. */
static int deliver(struct warm *w) {
    const unsigned char *frame = w->frame, *limit = frame + w->frame_size, *at = frame + 53;
    struct text arn, trace, absent;
    uint64_t deadline_ms;
    size_t size;
    unsigned char *to = w->out;
    if (w->frame_size < 60 || u32(frame) != w->frame_size - 4 || memcmp(frame + 4, "\x99\x04\xd9\x24", 4) != 0 || frame[44] != 0xCF) return 0;
    if (!read_text(&at, limit, &arn) || !read_text(&at, limit, &trace)) return 0;
    for (int n = 0; n < 3; n++)
        if (!read_text(&at, limit, &absent) || absent.size) return 0;
    if (at + 5 > limit || *at != 0xC6 || u32(at + 1) != (size = limit - at - 5)) return 0;
    if (arn.size + trace.size > HEADS - 512) return 0;
    deadline_ms = (uint64_t)u32(frame + 45) << 32 | u32(frame + 49);
    to = PUT(to, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: ");
    to = put(to, frame + 8, ID);
    to += sprintf((char *)to, "\r\nLambda-Runtime-Deadline-Ms: %llu\r\nLambda-Runtime-Invoked-Function-Arn: ", (unsigned long long)deadline_ms);
    to = put(to, arn.at, arn.size);
    to += sprintf((char *)to, "\r\nContent-Length: %zu\r\n", size);
    if (trace.size) {
        to = PUT(to, "Lambda-Runtime-Trace-Id: ");
        to = put(to, trace.at, trace.size);
        to = PUT(to, "\r\n");
    }
    to = PUT(to, "\r\n");
    to = put(to, at + 5, size);
    w->state = RUNNING;
    w->asked_size = 0;
    return give(w->connection, w->out, to - w->out, &w->connection_rest) ? 1 : -1;
}

static int starts(const unsigned char *data, size_t size, struct text text) {
    return memcmp(data, text.at, size < text.size ? size : text.size) == 0;
}

/* The answer in ``asked`` up to the supervisor. 1 done, 0 more is to come, -1 not for here or not all of it went. */
static int answer(struct warm *w) {
    const unsigned char *data = w->asked, *body;
    size_t size = w->asked_size, at = w->first.size, length = 0, digits = 0;
    int whole;
    unsigned char *to = w->out;
    if (!w->first.size || !starts(data, size, w->first)) return -1;
    if (size < at + ID) return 0;
    if (memcmp(data + at, w->frame + 8, ID) != 0) return -1;
    at += ID;
    if (!starts(data + at, size - at, w->second)) return -1;
    at += w->second.size;
    for (; at < size && data[at] >= '0' && data[at] <= '9' && digits < 8; at++, digits++) length = length * 10 + data[at] - '0';
    if (at >= size) return 0;
    if (!digits || !starts(data + at, size - at, w->third)) return -1;
    at += w->third.size;
    if (!length || at + length > ROOM) return -1;
    if (size < at + length) return 0;
    if (size > at + length) return -1;
    body = data + at;
    to = put_u32(to, 46 + w->kind.size + length);
    to = PUT(to, "\x95\x05\xd9\x24");
    to = put(to, w->frame + 8, ID);
    to = PUT(to, "\xc2");
    to = put(to, w->kind.at, w->kind.size);
    to = PUT(to, "\xc6");
    to = put_u32(to, length);
    to = put(to, body, length);
    w->asked_size = 0;
    w->state = ANSWERED;
    whole = give(w->link, w->out, to - w->out, &w->link_rest);
    return give(w->connection, w->accepted.at, w->accepted.size, &w->connection_rest) && whole ? 1 : -1;
}

/* The poll in ``asked``: ready again. As ``answer``. */
static int poll(struct warm *w) {
    if (!starts(w->asked, w->asked_size, w->poll) || w->asked_size > w->poll.size) return -1;
    if (w->asked_size < w->poll.size) return 0;
    w->asked_size = 0;
    w->frame_size = 0;
    w->state = READY;
    w->invocations++;
    return give(w->link, (const unsigned char *)"\0\0\0\x02\x91\x03", 6, &w->link_rest) ? 1 : -1;
}

/* From READY on; returns when something is for Python. */
void warm_run(struct warm *w) {
    struct epoll_event events[8];
    w->state = READY;
    w->frame_size = w->asked_size = 0;
    w->link_rest.size = w->connection_rest.size = 0;
    for (;;) {
        int expected = w->state == READY ? w->link : w->connection;
        int n = epoll_wait(w->epoll, events, 8, w->timeout_ms);
        ssize_t got;
        if (n != 1 || events[0].data.fd != expected || events[0].events != EPOLLIN) return;
        if (w->state == READY) {
            got = recv(w->link, w->frame, ROOM, MSG_DONTWAIT);
            if (got <= 0) return;
            w->frame_size = got;
            if (deliver(w) <= 0) return;
            continue;
        }
        got = recv(w->connection, w->asked + w->asked_size, ROOM - w->asked_size, MSG_DONTWAIT);
        if (got <= 0) return;
        w->asked_size += got;
        if ((w->state == RUNNING ? answer(w) : poll(w)) < 0) return;
    }
}

size_t warm_size(void) { return sizeof(struct warm); }
