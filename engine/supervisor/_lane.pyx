# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, annotation_typing=False
"""The plain warm invocation, compiled: an optional twin of the path through ``api``, ``invoker``, ``channel`` and ``story``.

Theory of operation. A connection that repeats a plain request (same function, no options) holds a ``Lane`` for it; the instances
that a lane may use each have a ``Worker``. ``Lane.invoke`` does everything that ``InvokeApi`` and ``Invoker`` do for such a request
when an idle, initialised instance is at hand, and ``Worker.readable`` what they do when its plain answer comes. Whatever is not
plain is left to the Python code: ``invoke`` then returns False and has changed nothing, and an invocation under way becomes an
ordinary one the moment anybody looks at ``Instance.current`` (``Worker.request``). Limits, pool and bookkeeping are the Python
objects themselves, so there is one writer and one truth; only parsing, formatting and system calls are done here.

Short work is held together: while as many of a lane's invocations run as there are processors, a further one waits for the next of
them to end instead of waking another instance, which would only push the others from their core and out of its caches. It holds its
lease of concurrency like any other. LOOK_S later, and as often as anything is held, the lane looks whether that was right: unless
they end at a rate at which each takes less than HOLD_S, everything held gets an instance of its own at once, and the lane holds
nothing for a while (REST_S, doubled each time it was wrong in a row, up to MOST_REST_S). A function whose memory size buys less than a
processor is never held together: one instance would have to do the work of several with its own share.

A worker behind the agent answers first and says NEXT a moment later (see ``finishing``). Who calls in between, when no instance is idle, is admitted
and waits for that very worker, one caller at the most; when NEXT does not come in time, or the worker ends, the caller is seen to like anybody else.

Nothing depends on this module: without a compiler the engine runs the same path in Python.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.errno cimport EAGAIN, errno
from libc.math cimport ceil
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

import os
from collections import deque

from engine.core.instance import State
from engine.core.report import billed_ms
from engine.core.stats import BOUNDS
from engine.supervisor.api import raw_json
from engine.supervisor.fleet import MIB_PER_VCPU
from engine.supervisor.instance import PEAK_AGE_MS
from engine.supervisor.request import Request

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

DEF READ = 65536
DEF SMALL = 16384
DEF ID = 36
DEF MAX_LANES = 256
DEF CHAIN = 8
DEF BUCKETS = 21
# Lines of a batch, and so what a lane may add to a log without asking it.
DEF BATCH = 1024

# Seconds; see above.
cdef double HOLD_S = 0.0002
cdef double LOOK_S = 0.001
cdef double REST_S = 1.0
cdef double MOST_REST_S = 64.0
cdef int MOST_LATE = 3
cdef int PROCESSORS = len(os.sched_getaffinity(0))

cdef char _in[READ]
cdef char _out[SMALL + 1024]
cdef double _bounds[BUCKETS - 1]
cdef int PEAK_MS = PEAK_AGE_MS
cdef const char *_HEX = b"0123456789abcdef"
cdef object _IDLE = State.IDLE
cdef object _BUSY = State.BUSY

if len(BOUNDS) != BUCKETS - 1:
    raise ImportError("built for other histograms")
for _i in range(BUCKETS - 1):
    _bounds[_i] = BOUNDS[_i]

cdef double _now_s() noexcept:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9

cdef long long _now_ms() noexcept:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return t.tv_sec * 1000LL + t.tv_nsec // 1000000

cdef inline void _put_hex(char *to, unsigned long long value, int digits) noexcept:
    cdef int i
    for i in range(digits - 1, -1, -1):
        to[i] = _HEX[value & 15]
        value >>= 4

cdef inline void _put_u32(char *to, unsigned long value) noexcept:
    to[0] = <char>((value >> 24) & 255)
    to[1] = <char>((value >> 16) & 255)
    to[2] = <char>((value >> 8) & 255)
    to[3] = <char>(value & 255)

cdef inline unsigned long _u32(const char *at) noexcept:
    return (<unsigned long><unsigned char>at[0] << 24 | <unsigned long><unsigned char>at[1] << 16
            | <unsigned long><unsigned char>at[2] << 8 | <unsigned long><unsigned char>at[3])

# Request ids: as engine.ids makes them, a random half that is renewed now and then and a counter.
cdef char _id[ID]
cdef unsigned long long _id_count = 0
DEF RENEW = 1048576

cdef void _next_id() except *:
    global _id_count
    cdef bytes drawn
    cdef const unsigned char *r
    if not _id_count % RENEW:
        drawn = os.urandom(10)
        r = <const unsigned char *>PyBytes_AS_STRING(drawn)
        _put_hex(_id, <unsigned long long>r[0] << 24 | r[1] << 16 | r[2] << 8 | r[3], 8)
        _id[8] = _id[13] = _id[18] = _id[23] = b"-"
        _put_hex(_id + 9, <unsigned long long>r[4] << 8 | r[5], 4)
        _put_hex(_id + 14, 0x4000 | (<unsigned long long>r[6] << 8 | r[7]) & 0xFFF, 4)
        _put_hex(_id + 19, 0x8000 | (<unsigned long long>r[8] << 8 | r[9]) & 0x3FFF, 4)
    _put_hex(_id + 24, _id_count, 12)
    _id_count += 1

# Trace ids: as engine.supervisor.api makes them. Root=1-%08x-%014x%010x;Parent=%08x%08x;Sampled=0
DEF TRACE = 74
cdef char _trace[TRACE]
cdef long long _trace_s = -1
cdef unsigned long long _trace_count = 0
memcpy(_trace, b"Root=1-00000000-000000000000000000000000;Parent=0000000000000000;Sampled=0", TRACE)

cdef void _next_trace(long long epoch_s) except *:
    global _trace_s, _trace_count
    cdef bytes drawn
    cdef const unsigned long long *r
    if epoch_s != _trace_s:
        _trace_s = epoch_s
        drawn = os.urandom(16)
        r = <const unsigned long long *>PyBytes_AS_STRING(drawn)
        _put_hex(_trace + 7, epoch_s, 8)
        _put_hex(_trace + 16, r[0] & 0xFFFFFFFFFFFFFFULL, 14)
        _put_hex(_trace + 48, r[1] & 0xFFFFFFFFULL, 8)
    _put_hex(_trace + 30, _trace_count, 10)
    _put_hex(_trace + 56, _trace_count & 0xFFFFFFFFULL, 8)
    _trace_count += 1

cdef long long _date_s = -1
cdef bytes _date = b""


def set_date(make):
    """``make()`` gives the ``Date:`` line with its CR LF; asked once a second."""
    global _make_date
    _make_date = make

cdef object _make_date = None


cdef inline char *_put(char *to, const char *text, size_t size) noexcept:
    memcpy(to, text, size)
    return to + size

cdef char *_put_decimal(char *to, long long value) noexcept:
    cdef char digits[24]
    cdef int n = 0
    if value < 0:
        to[0] = b"-"
        to += 1
        value = -value
    while True:
        digits[n] = <char>(48 + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    while n:
        n -= 1
        to[0] = digits[n]
        to += 1
    return to

cdef char *_put_hundredths(char *to, double value) noexcept:
    """As ``%.2f`` of a duration in ms."""
    cdef long long hundredths = <long long>(value * 100 + 0.5)
    to = _put_decimal(to, hundredths // 100)
    to[0] = b"."
    to[1] = <char>(48 + hundredths // 10 % 10)
    to[2] = <char>(48 + hundredths % 10)
    return to + 3


cdef struct Entry:
    char request_id[ID]
    long long started_ms
    long long ended_ms
    double duration_ms
    # Negative: the instance had been initialised before.
    double init_ms


cdef class Batch:
    """START, END and REPORT of invocations in a row that printed nothing, made into text when the log is written."""

    cdef readonly object version
    cdef list instances
    cdef Entry *entries
    cdef int count
    cdef int room

    def __cinit__(self):
        self.entries = NULL

    def __dealloc__(self):
        PyMem_Free(self.entries)

    def __init__(self, version):
        self.version = version
        self.instances = []

    def __len__(self):
        return self.count

    cdef Entry *add(self, instance) except NULL:
        cdef Entry *more
        cdef int room
        if self.count == self.room:
            room = 2 * self.room or 8
            more = <Entry *>PyMem_Realloc(self.entries, room * sizeof(Entry))
            if more == NULL:
                raise MemoryError
            self.entries, self.room = more, room
        self.instances.append(instance)
        self.count += 1
        return &self.entries[self.count - 1]

    def render(self):
        """All lines, each with its newline."""
        config = self.version.config
        cdef bytes version = config.version.encode()
        cdef bytes memory = b" ms\tMemory Size: %d MB\t" % config.memory_mib
        cdef bytes peak = b""
        cdef bytes stream = b""
        cdef object instance, seen = None
        cdef long long read_ms = 0
        cdef long long billed
        cdef size_t most = 0
        cdef bytearray text = bytearray()
        cdef char *to
        cdef size_t at = 0
        cdef Entry *e
        cdef int i
        for i in range(self.count):
            e = &self.entries[i]
            instance = self.instances[i]
            if instance is not seen or e.ended_ms - read_ms >= PEAK_MS:
                seen = instance
                read_ms = e.ended_ms
                stream = instance.stream.encode()
                used = instance.peak_memory_mib(read_ms)
                peak = b"" if used is None else b"Max Memory Used: %d MB\t" % used
                most = 512 + 3 * PyBytes_GET_SIZE(stream) + PyBytes_GET_SIZE(version) + PyBytes_GET_SIZE(memory) + PyBytes_GET_SIZE(peak)
            if at + most > <size_t>len(text):
                PyByteArray_Resize(text, 2 * len(text) + most)
            if e.init_ms < 0:
                billed = <long long>ceil(e.duration_ms - 1e-6)
            else:
                billed = billed_ms(e.duration_ms, e.init_ms)
            to = PyByteArray_AS_STRING(text) + at
            to = _put_decimal(to, e.started_ms)
            to = self._line(to, stream, b"START", 5, e)
            to = _put(to, " Version: ", 10)
            to = _put(to, PyBytes_AS_STRING(version), PyBytes_GET_SIZE(version))
            to = _put(to, "\n", 1)
            to = _put_decimal(to, e.ended_ms)
            to = self._line(to, stream, b"END", 3, e)
            to = _put(to, "\n", 1)
            to = _put_decimal(to, e.ended_ms)
            to = self._line(to, stream, b"REPORT", 6, e)
            to = _put(to, "\tDuration: ", 11)
            to = _put_hundredths(to, e.duration_ms)
            to = _put(to, " ms\tBilled Duration: ", 21)
            to = _put_decimal(to, billed)
            to = _put(to, PyBytes_AS_STRING(memory), PyBytes_GET_SIZE(memory))
            to = _put(to, PyBytes_AS_STRING(peak), PyBytes_GET_SIZE(peak))
            if e.init_ms >= 0:
                to = _put(to, "Init Duration: ", 15)
                to = _put_hundredths(to, e.init_ms)
                to = _put(to, " ms\t", 4)
            to = _put(to, "\n", 1)
            at = to - PyByteArray_AS_STRING(text)
        return PyUnicode_DecodeASCII(PyByteArray_AS_STRING(text), at, "replace")

    cdef char *_line(self, char *to, bytes stream, const char *kind, size_t size, Entry *e) noexcept:
        to[0] = b"\t"
        to = _put(to + 1, PyBytes_AS_STRING(stream), PyBytes_GET_SIZE(stream))
        to[0] = b"\t"
        to = _put(to + 1, kind, size)
        to = _put(to, " RequestId: ", 12)
        return _put(to, e.request_id, ID)


cdef class Tally:
    """What finished in the lanes of one function, in the buckets of its histograms, until somebody looks at these."""

    cdef long long counts[3][BUCKETS]
    cdef double sums_s[3]

    cdef inline void observe(self, int which, double seconds) noexcept:
        cdef int bucket = 0
        while bucket < BUCKETS - 1 and seconds > _bounds[bucket]:
            bucket += 1
        self.counts[which][bucket] += 1
        self.sums_s[which] += seconds

    def pour(self, histograms):
        """Add it to the histograms of queue, invoke and overhead."""
        cdef int which, bucket
        for which, histogram in enumerate(histograms):
            counts = histogram.counts
            for bucket in range(BUCKETS):
                if self.counts[which][bucket]:
                    counts[bucket] += self.counts[which][bucket]
                    self.counts[which][bucket] = 0
            histogram.sum_s += self.sums_s[which]
            self.sums_s[which] = 0


# Answers that the caller being served gets in one piece: a chain of invocations makes up to CHAIN of them.
cdef object _served = None
cdef list _answers = []

cdef int _answer(caller, bytes reply) except -1:
    global _served
    if caller is not _served:
        _deliver()
        _served = caller
    _answers.append(reply)
    return 0

cdef int _deliver() except -1:
    global _served, _answers
    cdef list answers
    if _served is None:
        return 0
    caller, _served = _served, None
    answers, _answers = _answers, []
    caller.deliver(answers[0] if len(answers) == 1 else b"".join(answers))
    return 0


cdef class Worker:
    """One worker's channel, seen from the lane. ``usable``: an initialised, thawed worker whose output needs no reading."""

    cdef object instance
    cdef object channel
    cdef int fd
    cdef public bint usable
    cdef public bint clean
    cdef bint flying
    # The invocation under way.
    cdef Lane lane
    cdef object caller
    cdef unsigned long call_id
    cdef char request_id[ID]
    cdef char trace[TRACE]
    cdef readonly double started_s
    cdef double queued_s
    cdef long long started_ms
    cdef object payload
    # Behind the agent: its answer has come, its NEXT has not; and who is to be served then: (lane, caller, call id, payload, received).
    cdef bint finishing
    cdef object then

    def __init__(self, instance, channel, int fd):
        self.instance = instance
        self.channel = channel
        self.fd = fd
        self.clean = True

    def request(self):
        """The invocation under way as the Python code carries it; the lane has nothing more to do with it."""
        cdef Lane lane = self.lane
        caller, self.caller = self.caller, None
        payload, self.payload = self.payload, None
        self.flying = False
        self.lane = None
        lane.busy -= 1
        if lane.held:
            lane.invoker._loop.call_soon(lane.go_on)
        request_id = PyUnicode_DecodeASCII(self.request_id, ID, NULL)
        trace = PyBytes_FromStringAndSize(self.trace, TRACE)
        middle = lane.arn + b"\xd9" + bytes((TRACE,)) + trace + b"\xc0\xc0\xc0"
        request = Request(
            request_id, payload, self.started_s - self.queued_s, self.started_ms, lane.version, middle, trace,
            caller.reply_to(self.call_id), want_tail=False,
        )
        request.started_s = self.started_s
        return request

    def close(self):
        """The channel is closed: its descriptor is somebody else's from now on."""
        self.fd = -1
        self.usable = False
        self.channel = None
        self.release()

    def release(self):
        """It is about to be free no longer, for one reason or another: whoever was to be next is seen to like anybody else."""
        cdef Lane lane
        self.finishing = False
        if self.then is not None:
            then, self.then = self.then, None
            lane = then[0]
            lane.invoker._loop.call_soon(lane.let_go, *then[1:])

    def readable(self):
        """The worker sent something: a plain answer is settled here, all else is the channel's.

        When the worker went on with one of the held at once, it is let run, and if its answer is there then, it is taken without a turn
        of the loop in between; up to CHAIN of them. On one processor that saves a tenth of an invocation.
        """
        if self.fd < 0:
            return
        if not (self.flying and self.clean):
            if not self.clean:
                self.channel.read_once()
            elif self.finishing:
                self._read_next()
            else:
                self._read_other()
            return
        try:
            self._read()
        finally:
            _deliver()

    cdef _read(self):
        cdef ssize_t n
        cdef unsigned long size
        cdef int left = CHAIN
        while True:
            n = recv(self.fd, _in, READ, MSG_DONTWAIT)
            size = n - 51
            if (
                51 < n < READ
                and _u32(_in) == <unsigned long>n - 4
                and memcmp(_in + 4, b"\x95\x05\xd9\x24", 4) == 0
                and memcmp(_in + 8, self.request_id, ID) == 0
                and (memcmp(_in + 44, b"\xc3\xc0\xc6", 3) == 0 or memcmp(_in + 44, b"\xc2\xc0\xc6", 3) == 0)
                and _u32(_in + 47) == size
                and self.usable
            ):
                self._settle(_in + 51, size, _in[44] == <char>0xC3)
                left -= 1
                if left and self.flying and self.fd >= 0:
                    sched_yield()
                    continue
                return
            break
        if n >= 0:
            self.channel.received(PyBytes_FromStringAndSize(_in, n))
        elif left == CHAIN:
            self.channel.read_once()  # which sees the same error, or nothing

    cdef _read_next(self):
        """The worker has answered: NEXT is all that is to come from it now."""
        cdef ssize_t n = recv(self.fd, _in, READ, MSG_DONTWAIT)
        if n == 6 and memcmp(_in, b"\x00\x00\x00\x02\x91\x03", 6) == 0:
            self._freed()
        elif n >= 0:
            self.channel.received(PyBytes_FromStringAndSize(_in, n))
        else:
            self.channel.read_once()

    cdef _read_other(self):
        """Something that is no answer to an invocation of the lane's."""
        cdef ssize_t n = recv(self.fd, _in, READ, MSG_DONTWAIT)
        if n >= 0:
            self.channel.received(PyBytes_FromStringAndSize(_in, n))
        elif errno != EAGAIN:
            self.channel.read_once()

    cdef _freed(self):
        """As ``Invoker``'s NEXT of a worker that has answered, and ``_run`` for who is next."""
        cdef Lane lane
        instance = self.instance
        then, self.then = self.then, None
        self.finishing = False
        if then is None:
            self.channel.received(b"\x00\x00\x00\x02\x91\x03")
            return
        lane = then[0]
        if lane.fits(self) and instance.answered:
            lane.invoker._finishing.end(instance)
            lane.pool.going_on(instance)
            self.queued_s = _now_s() - <double>then[4]
            lane._begin(self, then[1], then[2], then[3], _now_s())
        else:
            self.channel.received(b"\x00\x00\x00\x02\x91\x03")
            lane.let_go(then[1], then[2], then[3], then[4])

    cdef _settle(self, const char *payload, size_t size, bint ready):
        """As ``Invoker.settle`` with a success, and what follows it."""
        cdef Lane lane = self.lane
        cdef double now_s = _now_s()
        cdef double took_s = now_s - self.started_s
        cdef Entry *entry
        cdef Tally tally = lane.tally
        invoker = lane.invoker
        instance = self.instance
        caller = self.caller
        self.flying = False
        self.caller = self.payload = None
        lane.busy -= 1
        lane.settled += 1
        instance.flight = None
        instance.invocations += 1
        lane.account.release(lane.quota)
        invoker.in_flight -= 1
        entry = lane.log_entry(instance, self.started_ms)
        if entry != NULL:
            memcpy(entry.request_id, self.request_id, ID)
            entry.started_ms = self.started_ms
            entry.ended_ms = self.started_ms + <long long>(took_s * 1000)
            entry.duration_ms = took_s * 1000
            init_ms = instance.init_ms
            if init_ms is None:
                entry.init_ms = -1
            else:
                entry.init_ms = init_ms
                instance.init_ms = None
        _answer(caller, lane.http_reply(self, payload, size) if self.call_id == HTTP else lane.result(self, payload, size))
        lane.stats.success += 1
        tally.observe(0, self.queued_s)
        tally.observe(1, took_s)
        tally.observe(2, _now_s() - now_s)
        if not ready:
            invoker._finishing.begin(instance)
            self.finishing = True
            lane.finishing = self
            if lane.held:
                invoker._loop.call_soon(lane.go_on)
            if invoker.on_idle is not None:
                invoker._idle_check()
            return
        if lane.held and lane.busy < PROCESSORS and lane.fits(self):
            lane.next(self)
            return
        lane.timed.pop(instance, None)
        instance.state = _IDLE
        if instance.leaving:
            invoker._fleet.leave(instance)
        else:
            invoker._ready(instance, now_s)
        if invoker.on_idle is not None:
            invoker._idle_check()

# Marks a caller that speaks HTTP; call ids of frames have 32 bits.
cdef unsigned long HTTP = 1UL << 40


cdef class Lane:
    """A plain request that was resolved once: valid while its function has not changed since."""

    cdef object api
    cdef object invoker
    cdef object version
    cdef object pool
    cdef object account
    cdef object quota
    cdef object stats
    cdef Tally tally
    cdef object log
    cdef dict timed
    cdef object function
    cdef object revision
    cdef bytes arn
    cdef bytes version_text
    cdef double timeout_s
    cdef long long timeout_ms
    # Invocations running in the lane, and those held: (caller, call id, payload, received).
    cdef int busy
    cdef object held
    # The worker whose answer came last without its NEXT.
    cdef Worker finishing
    # How many have ended since the look before, when that was, and how many looks in a row came too late to tell.
    cdef int settled
    cdef int late
    cdef double look_from_s
    cdef bint looking
    cdef bint holds
    cdef double resting_until_s
    cdef double rest_s

    def __init__(self, api, invoker, version, bytes arn):
        function = version.function
        if len(arn) > 600:
            raise ValueError("no function ARN is that long")
        self.api = api
        self.invoker = invoker
        self.function = function
        self.revision = function.revision
        self.version = version
        self.pool = version.pool
        self.account = function.account
        self.quota = function.quota
        self.stats = function.stats
        if self.stats.tally is None:
            self.stats.tally = Tally()
        self.tally = self.stats.tally
        self.log = version.log
        self.timed = invoker._timed
        self.arn = arn
        self.version_text = version.config.version.encode()
        self.timeout_s = version.config.timeout_s
        self.timeout_ms = <long long>(self.timeout_s * 1000)
        self.holds = not invoker.cpu_quota or version.config.memory_mib >= MIB_PER_VCPU
        self.held = deque()
        self.rest_s = REST_S

    cdef bint invoke(self, caller, unsigned long call_id, object body) except -1:
        """Start a plain invocation; False when it is not for the lane, and nothing has happened then."""
        cdef Worker worker
        cdef double now_s
        cdef ssize_t size
        if self.api.draining or self.function.revision != self.revision or self.version.provisioned is not None:
            return False
        instance = self.pool.peek()
        if instance is None:
            return self._behind(caller, call_id, body)
        lent = instance.worker
        if lent is None:
            return False
        worker = <Worker>lent
        size = PyBytes_GET_SIZE(body)
        if not worker.usable or not worker.clean or worker.fd < 0 or size > SMALL or worker.channel.backlog or instance.state is not _IDLE:
            return False
        if size == 0:
            body = b"{}"
        else:
            try:
                raw_json(body)
            except Exception:
                return False  # the general path says what is wrong
        now_s = _now_s()
        if self.account.admit(self.quota, now_s) is not None:
            return False
        self.invoker.in_flight += 1
        if self.held or (self.holds and self.busy >= PROCESSORS and now_s >= self.resting_until_s):
            self.held.append((caller, call_id, body, now_s))
            if not self.looking:
                self._look_soon()
            if self.busy < PROCESSORS:
                self.pool.reuse()
                self.next(worker)
            return True
        self.pool.reuse()
        worker.queued_s = 0.0
        self._begin(worker, caller, call_id, body, now_s)
        return True

    cdef bint _behind(self, caller, unsigned long call_id, object body) except -1:
        """No instance is idle, but perhaps one will be in a moment: as many wait for it as it can take, which is one."""
        cdef Worker worker = self.finishing
        cdef double now_s
        if (
            worker is None or not worker.finishing or worker.then is not None or worker.fd < 0 or not self.fits(worker)
            or not worker.instance.answered or PyBytes_GET_SIZE(body) > SMALL
        ):
            return False
        if PyBytes_GET_SIZE(body) == 0:
            body = b"{}"
        else:
            try:
                raw_json(body)
            except Exception:
                return False  # the general path says what is wrong
        now_s = _now_s()
        if self.account.admit(self.quota, now_s) is not None:
            return False
        self.invoker.in_flight += 1
        worker.then = (self, caller, call_id, body, now_s)
        return True

    def let_go(self, caller, call_id, body, received_s):
        """An admitted invocation that waited here is seen to like anybody else's."""
        self._let_go(caller, call_id, body, received_s)

    cdef _begin(self, Worker worker, caller, unsigned long call_id, object body, double now_s):
        """Send an admitted invocation to a worker whose instance the pool counts as busy."""
        instance = worker.instance
        worker.started_ms = _now_ms()
        worker.started_s = now_s
        _next_id()
        _next_trace(worker.started_ms // 1000)
        memcpy(worker.request_id, _id, ID)
        memcpy(worker.trace, _trace, TRACE)
        worker.lane = self
        worker.caller = caller
        worker.call_id = call_id
        worker.payload = body
        worker.flying = True
        self.busy += 1
        instance.flight = worker
        instance.state = _BUSY
        instance.deadline_s = now_s + self.timeout_s
        self.timed[instance] = None
        self._send(worker, body, PyBytes_GET_SIZE(body))
        if not self.invoker._sweeping:
            self.invoker._sweep_soon()

    cdef Entry *log_entry(self, instance, long long at_ms) except? NULL:
        """Room for one invocation's lines; NULL when the log takes no more."""
        cdef Batch batch
        last = self.log.batch
        if type(last) is Batch:
            batch = <Batch>last
            if batch.version is self.version and batch.count < BATCH:
                return batch.add(instance)
        batch = Batch(self.version)
        if not self.log.begin(batch, at_ms):
            return NULL
        return batch.add(instance)

    cdef bint fits(self, Worker worker) except -1:
        """Whether ``worker``, which has just ended an invocation, may go on with one of the held."""
        return (
            worker.usable and worker.clean and worker.fd >= 0 and not worker.channel.backlog and not worker.instance.leaving
            and not self.pool.draining and not self.pool.waiting
        )

    cdef next(self, Worker worker):
        """Give the first of the held to ``worker``."""
        cdef double now_s
        caller, call_id, body, received_s = self.held.popleft()
        now_s = _now_s()
        worker.queued_s = now_s - <double>received_s
        self._begin(worker, caller, call_id, body, now_s)

    def go_on(self):
        """One that the held waited for has left the lane: the first of them need not wait for the next look."""
        while self.held and self.busy < PROCESSORS:
            instance = self.pool.peek()
            worker = None if instance is None else instance.worker
            if worker is not None and instance.state is _IDLE and self.fits(<Worker>worker):
                self.pool.reuse()
                self.next(<Worker>worker)
            else:
                caller, call_id, body, received_s = self.held.popleft()
                self._let_go(caller, call_id, body, received_s)

    cdef _look_soon(self):
        self.looking = True
        self.settled = 0
        self.look_from_s = _now_s()
        self.invoker._loop.call_later(LOOK_S, self.look)

    def look(self):
        """See that the held get on; when they do not, let all of them go."""
        cdef double took_s = _now_s() - self.look_from_s
        self.looking = False
        if not self.held:
            return
        if self.function.revision == self.revision:
            if self.settled * HOLD_S >= took_s * PROCESSORS:
                self.rest_s = REST_S
                self.late = 0
                self._look_soon()
                return
            if (self.settled or took_s > 2 * LOOK_S) and self.busy and self.late < MOST_LATE:
                # Something ended, or this process did not get its processor and so perhaps the workers did not either.
                self.late += 1
                self._look_soon()
                return
        self.late = 0
        self.resting_until_s = _now_s() + self.rest_s
        self.rest_s = min(2 * self.rest_s, MOST_REST_S)
        held, self.held = self.held, deque()
        for caller, call_id, body, received_s in held:
            self._let_go(caller, call_id, body, received_s)

    cdef _let_go(self, caller, unsigned long call_id, object body, double received_s):
        """An admitted invocation gets an instance of its own, as in ``Invoker.submit``."""
        now_s = _now_s()
        trace_ms = _now_ms()
        _next_id()
        _next_trace(trace_ms // 1000)
        trace = PyBytes_FromStringAndSize(_trace, TRACE)
        middle = self.arn + b"\xd9" + bytes((TRACE,)) + trace + b"\xc0\xc0\xc0"
        request = Request(
            PyUnicode_DecodeASCII(_id, ID, NULL), body, received_s, trace_ms - <long long>((now_s - received_s) * 1000), self.version,
            middle, trace, caller.reply_to(call_id), want_tail=False,
        )
        self.invoker.assign(request, now_s)

    cdef _send(self, Worker worker, object body, ssize_t size):
        """An INVOKE as ``messages.encode_invoke`` writes it."""
        cdef ssize_t arn = PyBytes_GET_SIZE(self.arn)
        cdef ssize_t middle = arn + 2 + TRACE + 3
        cdef ssize_t total = 4 + 54 + middle + size
        cdef char *out = _out
        cdef unsigned long long deadline = worker.started_ms + self.timeout_ms
        cdef ssize_t sent
        _put_u32(out, total - 4)
        memcpy(out + 4, b"\x99\x04\xd9\x24", 4)
        memcpy(out + 8, worker.request_id, ID)
        out[44] = <char>0xCF
        _put_u32(out + 45, deadline >> 32)
        _put_u32(out + 49, deadline & 0xFFFFFFFFUL)
        memcpy(out + 53, PyBytes_AS_STRING(self.arn), arn)
        out += 53 + arn
        out[0] = <char>0xD9
        out[1] = TRACE
        memcpy(out + 2, worker.trace, TRACE)
        memcpy(out + 2 + TRACE, b"\xc0\xc0\xc0\xc6", 4)
        _put_u32(out + 6 + TRACE, size)
        memcpy(out + 10 + TRACE, PyBytes_AS_STRING(body), size)
        sent = send(worker.fd, _out, total, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < total:
            # A worker that is gone shows at its reading side, as everywhere.
            worker.channel.send(PyBytes_FromStringAndSize(_out + (sent if sent > 0 else 0), total - (sent if sent > 0 else 0)))

    cdef bytes result(self, Worker worker, const char *payload, size_t size):
        """A RESULT as ``messages.encode_result`` writes it."""
        cdef ssize_t version = PyBytes_GET_SIZE(self.version_text)
        cdef ssize_t total = 4 + 22 + version + ID + size
        cdef bytes reply = PyBytes_FromStringAndSize(NULL, total)
        cdef char *out = PyBytes_AS_STRING(reply)
        _put_u32(out, total - 4)
        memcpy(out + 4, b"\x99\x23\xce", 3)
        _put_u32(out + 7, worker.call_id)
        memcpy(out + 11, b"\xcd\x00\xc8\xc0\xd9", 5)
        out[16] = <char>version
        memcpy(out + 17, PyBytes_AS_STRING(self.version_text), version)
        out += 17 + version
        memcpy(out, b"\xc0\xd9\x24", 3)
        memcpy(out + 3, worker.request_id, ID)
        memcpy(out + 3 + ID, b"\xc0\xc6", 2)
        _put_u32(out + 5 + ID, size)
        memcpy(out + 9 + ID, payload, size)
        return reply

    cdef bytes http_reply(self, Worker worker, const char *payload, size_t size):
        """The answer as ``replies.invoked`` writes it for a connection that stays open."""
        global _date_s, _date
        cdef long long second = _now_ms() // 1000
        if second != _date_s:
            _date_s = second
            _date = _make_date()
        head = b"HTTP/1.1 200 OK\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\nx-amzn-RequestId: %b\r\nX-Amz-Executed-Version: %b\r\nX-Amzn-Trace-Id: %b\r\nConnection: keep-alive\r\n\r\n" % (
            _date, size, PyBytes_FromStringAndSize(worker.request_id, ID), self.version_text, PyBytes_FromStringAndSize(worker.trace, TRACE),
        )
        cdef ssize_t before = PyBytes_GET_SIZE(head)
        cdef bytes reply = PyBytes_FromStringAndSize(NULL, before + size)
        memcpy(PyBytes_AS_STRING(reply), PyBytes_AS_STRING(head), before)
        memcpy(PyBytes_AS_STRING(reply) + before, payload, size)
        return reply

    def run(self, caller, bytes body):
        """Start a plain HTTP invocation for a connection that stays open; False: not for the lane."""
        return self.invoke(caller, HTTP, body)


cdef class Calls:
    """The frames of one binary connection. Plain CALLs with a head seen before take the lane learnt for it."""

    cdef object connection
    cdef dict lanes
    # The head of the call before and its lane: mostly the next has the same.
    cdef bytes last
    cdef Lane lane

    def __init__(self, connection):
        self.connection = connection
        self.lanes = {}
        self.last = b""

    def learn(self, bytes call, make):
        """A plain CALL came by the general path: ``make()`` gives the lane for its like, or None."""
        cdef ssize_t name = (<unsigned char>call[8]) << 8 | <unsigned char>call[9]
        head = call[7 : 16 + name]
        cdef Lane lane = self.lanes.get(head)
        self.last = b""
        if lane is None or lane.revision != lane.function.revision:
            if len(self.lanes) >= MAX_LANES:
                self.lanes.clear()
            self.lanes[head] = make()

    def feed(self, bytes data):
        """Handle the whole frames at the beginning of ``data``; what is left. Raises what the connection's ``frame`` raises."""
        cdef const char *at = PyBytes_AS_STRING(data)
        cdef ssize_t left = PyBytes_GET_SIZE(data)
        cdef unsigned long size
        while left >= 4:
            size = _u32(at)
            if size > <unsigned long>left - 4 or size == 0:
                break
            if not self._take(at + 4, size):
                self.connection.frame(PyBytes_FromStringAndSize(at + 4, size))
            at += 4 + size
            left -= 4 + size
        return b"" if left == 0 else data[PyBytes_GET_SIZE(data) - left :]

    cdef bint _take(self, const char *body, unsigned long size) except -1:
        """99 22 ce <u32 id> da <u16> name c0 flags c0 c0 c0 c6 <u32> payload: see docs/protocol.md."""
        cdef unsigned long head, payload
        if size < 20 or memcmp(body, b"\x99\x22\xce", 3) != 0 or body[7] != <char>0xDA:
            return False
        head = 9 + ((<unsigned long><unsigned char>body[8]) << 8 | <unsigned char>body[9])
        if size < 11 + head:
            return False
        payload = _u32(body + 7 + head)
        if payload != size - 11 - head:
            return False
        if head != <unsigned long>PyBytes_GET_SIZE(self.last) or memcmp(body + 7, PyBytes_AS_STRING(self.last), head) != 0:
            key = PyBytes_FromStringAndSize(body + 7, head)
            lane = self.lanes.get(key)
            if lane is None:
                return False
            self.last = key
            self.lane = lane
        return self.lane.invoke(self.connection, _u32(body + 3), PyBytes_FromStringAndSize(body + 11 + head, payload))
