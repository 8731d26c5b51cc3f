/* What zygotes and templates have done for them because Python would touch too much memory over it. First, one fork where Python alone needs
   two: see copier.py.

   A copy must be born in a pid namespace that its template may not enter, since whoever enters a user namespace cannot come back. So somebody
   enters on its behalf and forks there. In Python that somebody is itself a copy of the whole template, whose page tables are copied only to be
   copied once more and thrown away. Here it runs on a stack of its own in the template's memory, while the template stands still (as vfork does),
   and what it forks returns from this function on the template's stack, of which it has a copy.

   Built without Python's headers: templates run other interpreters than the engine's. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK (64 * 1024)
/* Headers may be older than the kernel; the numbers are the same everywhere. */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

struct order {
    const int *groups, *spaces, *kinds;
    int n_groups, n_spaces;
    jmp_buf back;
    volatile int problem;
};

/* Must not allocate, nor return: its caller's frame belongs to two. */
static int between(void *argument) {
    struct order *order = argument;
    int n;
    for (n = 0; n < order->n_groups; n++)
        if (write(order->groups[n], "0", 1) != 1) {
            order->problem = errno;
            _exit(1);
        }
    for (n = 0; n < order->n_spaces; n++)
        if (setns(order->spaces[n], order->kinds[n]) != 0) {
            order->problem = errno;
            _exit(1);
        }
    switch (fork()) {
    case 0:
        _longjmp(order->back, 1);
    case -1:
        order->problem = errno;
        _exit(1);
    }
    _exit(0);
}

/* A run of system calls for calls.py, which builds the table. `places` has a bit for each argument that is found in `values`; `result` is where
   the result goes there, -1 for nowhere; a number of -1 is no call but stores its second argument, an int, at its first, and one of -2 calls the
   function there. 0 when all is done; else which one failed, from 1 on, with its error in values[0]. */
struct call {
    long number, argument[6], places, result, lax;
};

int perform(const struct call *calls, int n, long *values) {
    int i, k;
    for (i = 0; i < n; i++) {
        const struct call *one = &calls[i];
        long a[6], got;
        for (k = 0; k < 6; k++)
            a[k] = one->places >> k & 1 ? values[one->argument[k]] : one->argument[k];
        if (one->number == -1) {
            *(int *)a[0] = (int)a[1];
            continue;
        }
        if (one->number == -2)
            got = ((long (*)(void))a[0])();
        else
            got = syscall(one->number, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (got == -1 && !one->lax) {
            values[0] = errno;
            return i + 1;
        }
        if (one->result >= 0)
            values[one->result] = got;
    }
    return 0;
}

/* 0 in the copy, 1 in the template; in the template a negative errno when there is no copy. The caller sees to what a fork needs in Python. */
int copy_into(const int *groups, int n_groups, const int *spaces, const int *kinds, int n_spaces) {
    struct order order = {groups, spaces, kinds, n_groups, n_spaces, {{{0}}}, 0};
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    pid_t pid;
    int problem = 0;
    if (stack == MAP_FAILED)
        return -errno;
    if (_setjmp(order.back) == 0) {
        pid = clone(between, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, &order);
        if (pid < 0)
            problem = errno;
        else
            while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        if (order.problem)
            problem = order.problem;
        munmap(stack, STACK);
        return problem ? -problem : 1;
    }
    return 0;
}

/* A zygote's sandboxes, for forge.py: it waits for the broker, makes what is ordinary, reaps, and returns with everything else. What Python
   does between two forks is copied by the first write after each, 190 pages for a sandbox; this touches a handful. */

#define MOST_FDS 16
#define MOST_LIVE 16384
#define TRIES 8
#define FIRST_PID 300
#define PIDS 31700
/* Where a worker's descriptors go in the values of its run: init, control, channel, output; control groups. */
#define OWN_VALUES 1
#define JOIN_VALUES 7

enum { PACKET = 1, REAPED, WORKER, BROKEN };

struct live {
    long holder;
    int pid, is_init;
};

/* The same as forge.Forge. */
struct forge {
    int control, children, own_pids, own_net, zygote_pid, worker_uid, worker_gid, joins, into_group, owned;
    int n_live, reaping;
    /* What is to be said to Python. */
    int pid, status, problem, length, cut, hurried, n_fds;
    int fds[MOST_FDS];
    long init_flags, tid_address;
    void *init_entry, *init_stack;
    struct live *live;
    char *packet;
    long room;
    /* What a worker does first. */
    const struct call *calls;
    long *values;
    int n_calls, failed;
};

/* The kernel's. */
struct clone_args_2 {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* Memory for `live`: no fork of the zygote has it. NULL too where agreed, which is the size of the other side's state, says that the two do not fit. */
struct live *forge_memory(long agreed) {
    size_t size = MOST_LIVE * sizeof(struct live);
    void *memory;
    if (agreed != (long)sizeof(struct forge))
        return NULL;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (madvise(memory, size, MADV_DONTFORK) != 0) {
        munmap(memory, size);
        return NULL;
    }
    return memory;
}

/* The process number of a sandbox's init, -1 when it has ended or was made by Python. */
int forge_init_of(const struct forge *forge, long holder) {
    int n;
    for (n = 0; n < forge->n_live; n++)
        if (forge->live[n].is_init && forge->live[n].holder == holder)
            return forge->live[n].pid;
    return -1;
}

static void remember(struct forge *forge, int pid, long holder, int is_init) {
    forge->live[forge->n_live++] = (struct live){holder, pid, is_init};
}

static int broken(struct forge *forge) {
    forge->problem = errno;
    return BROKEN;
}

static int tell(const struct forge *forge, const char *text, int length, int fd) {
    struct iovec piece = {(void *)text, (size_t)length};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } with;
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    if (fd >= 0) {
        memset(&with, 0, sizeof with);
        with.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&with.header), &fd, sizeof fd);
        message.msg_control = &with;
        message.msg_controllen = sizeof with.room;
    }
    return sendmsg(forge->control, &message, MSG_NOSIGNAL) == length ? 0 : -1;
}

/* 0 when there is nothing left to reap. */
static int reap(struct forge *forge) {
    while (forge->reaping) {
        char text[96];
        int n, status;
        pid_t pid = waitpid(-1, &status, WNOHANG | WUNTRACED);
        if (pid <= 0) {
            forge->reaping = 0;
            break;
        }
        for (n = 0; n < forge->n_live && forge->live[n].pid != pid; n++)
            ;
        if (n == forge->n_live) {
            forge->pid = pid;
            forge->status = status;
            return REAPED;
        }
        if (WIFSTOPPED(status))
            continue;
        int length = snprintf(text, sizeof text, "[\"%s\",%ld,%d]", forge->live[n].is_init ? "exited" : "ended", forge->live[n].holder, status);
        forge->live[n] = forge->live[--forge->n_live];
        if (tell(forge, text, length, -1) != 0)
            return broken(forge);
    }
    return 0;
}

/* The next packet into `packet` and `fds`; -1 for an error. */
static int take(struct forge *forge) {
    struct iovec piece = {forge->packet, (size_t)forge->room - 1};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } with;
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &with, .msg_controllen = sizeof with.room};
    struct cmsghdr *one;
    ssize_t got = recvmsg(forge->control, &message, MSG_CMSG_CLOEXEC);
    if (got < 0)
        return -1;
    forge->length = (int)got;
    forge->packet[got] = 0;
    forge->cut = (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0;
    forge->n_fds = 0;
    for (one = CMSG_FIRSTHDR(&message); one != NULL; one = CMSG_NXTHDR(&message, one))
        if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SCM_RIGHTS) {
            forge->n_fds = (int)((one->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(forge->fds, CMSG_DATA(one), (size_t)forge->n_fds * sizeof(int));
        }
    return 0;
}

static int map(int pid, const char *name, long first, int worker) {
    char path[64], text[96];
    int fd, length;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    length = snprintf(text, sizeof text, "0 %ld 1\n%d %ld 1\n", first, worker, first + 1);
    if (write(fd, text, (size_t)length) != length) {
        int problem = errno;
        close(fd);
        errno = problem;
        return -1;
    }
    close(fd);
    return 0;
}

/* Whose a user namespace is that is made now; see kernel.be_effectively. */
static int be_effectively(long user) {
    if (syscall(SYS_setresuid, -1L, user, -1L) != 0)
        return -1;
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

/* Process 1, in the network of `net`. -2 when there is no way back from there. */
static int make_init(struct forge *forge, int net, long owner, int *pidfd) {
    int pid = -1, problem;
    if (setns(net, CLONE_NEWNET) != 0)
        return -1;
    if (!forge->owned || be_effectively(owner) == 0)
        pid = clone((int (*)(void *))forge->init_entry, forge->init_stack, (int)forge->init_flags, NULL, pidfd, NULL, NULL);
    problem = errno;
    if (forge->owned && be_effectively(getuid()) != 0)
        return -2;
    if (setns(forge->own_net, CLONE_NEWNET) != 0)
        return -2;
    errno = problem;
    return pid;
}

/* The worker, born into the pid namespace of `init`: 0 in it. */
static int fork_into(struct forge *forge, int init, int group, int number) {
    int pidfd = -1, tries, pid = -1, problem = EEXIST;
    struct clone_args_2 arguments = {.exit_signal = SIGCHLD};
    arguments.flags = CLONE_PIDFD;
    arguments.pidfd = (uint64_t)(uintptr_t)&pidfd;
    arguments.set_tid = (uint64_t)(uintptr_t)&number;
    arguments.set_tid_size = 1;
    if (forge->tid_address) {
        arguments.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        arguments.child_tid = (uint64_t)forge->tid_address;
    }
    if (group >= 0) {
        arguments.flags |= 0x200000000ULL; /* CLONE_INTO_CGROUP */
        arguments.cgroup = (uint64_t)group;
    }
    if (setns(init, CLONE_NEWPID) != 0)
        return -1;
    for (tries = 0; tries < TRIES; tries++) {
        if (number != forge->zygote_pid) {
            pid = (int)syscall(SYS_clone3, &arguments, sizeof arguments);
            problem = errno;
            if (pid == 0)
                return 0;
            if (pid > 0 || problem != EEXIST)
                break;
        }
        unsigned chance = 0;
        syscall(SYS_getrandom, &chance, sizeof chance, 0);
        number = FIRST_PID + (int)(chance % PIDS);
    }
    if (pidfd >= 0)
        close(pidfd);
    if (setns(forge->own_pids, CLONE_NEWPID) != 0)
        return -2;
    errno = problem;
    return pid;
}

/* In a new worker: its run, before Python touches any memory. */
static int begin(struct forge *forge, int init) {
    int n;
    forge->values[OWN_VALUES] = init;
    for (n = 0; n < 3; n++)
        forge->values[OWN_VALUES + 1 + n] = forge->fds[n];
    for (n = 0; n < forge->joins; n++)
        forge->values[JOIN_VALUES + n] = forge->fds[3 + n];
    forge->failed = perform(forge->calls, forge->n_calls, forge->values);
    return WORKER;
}

/* In a fork that nobody makes a sandbox for: as if somebody had. */
int forge_try(struct forge *forge) { return begin(forge, -1); }

/* An ordinary sandbox. 0 when it is made or has been told to fail. */
static int make(struct forge *forge, long holder, int number, long first) {
    char text[192];
    int length, pid, worker, pidfd = -1, problem = 0, n = forge->n_fds;
    int net = forge->fds[n - 1], group = forge->into_group ? forge->fds[n - 2] : -1;
    pid = make_init(forge, net, first, &pidfd);
    if (pid == -2)
        return broken(forge);
    if (pid < 0) {
        problem = errno;
    } else {
        remember(forge, pid, holder, 1);
        if (map(pid, "uid_map", first, forge->worker_uid) != 0 || map(pid, "gid_map", first, forge->worker_gid) != 0) {
            problem = errno;
        } else {
            worker = fork_into(forge, pidfd, group, number);
            if (worker == 0)
                return begin(forge, pidfd);
            if (worker == -2)
                return broken(forge);
            if (worker < 0)
                problem = errno;
            else
                remember(forge, worker, holder, 0);
        }
        if (problem)
            syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    }
    if (problem)
        length = snprintf(text, sizeof text, "[\"make_failed\",%ld,\"fork the sandbox\",\"[Errno %d] %s\"]", holder, problem, strerror(problem));
    else
        length = snprintf(text, sizeof text, "[\"made\",%ld,%d]", holder, pid);
    n = tell(forge, text, length, problem ? -1 : pidfd);
    problem = errno;
    if (pidfd >= 0)
        close(pidfd);
    while (forge->n_fds > 0)
        close(forge->fds[--forge->n_fds]);
    errno = problem;
    return n == 0 ? 0 : broken(forge);
}

static int yes(const char *word) { return strcmp(word, "true") == 0; }

/* Until there is something for Python. */
int forge_run(struct forge *forge) {
    struct pollfd ready[2] = {{.fd = forge->children, .events = POLLIN}, {.fd = forge->control, .events = POLLIN}};
    for (;;) {
        char into[6], template[6], hurried[6], netted[6], note[128];
        long holder, first;
        int number, done = reap(forge);
        if (done)
            return done;
        if (poll(ready, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return broken(forge);
        }
        if (ready[0].revents) {
            while (read(forge->children, note, sizeof note) > 0)
                ;
            forge->reaping = 1;
        }
        if (!ready[1].revents)
            continue;
        if (take(forge) != 0)
            return broken(forge);
        if (forge->cut || forge->n_live + 2 > MOST_LIVE ||
            sscanf(forge->packet, "[\"make\",%ld,%d,%ld,%5[a-z],%5[a-z],%5[a-z],%5[a-z]]", &holder, &number, &first, into, template, hurried,
                   netted) != 7 ||
            yes(template) || !yes(netted) || yes(into) != forge->into_group || forge->n_fds != 4 + forge->joins + forge->into_group)
            return PACKET;
        forge->hurried = yes(hurried);
        done = make(forge, holder, number, first);
        if (done)
            return done;
    }
}
