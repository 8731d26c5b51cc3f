/* One fork where Python alone needs two: see copier.py.

   A copy must be born in a pid namespace that its template may not enter, since whoever enters a user namespace cannot come back. So somebody
   enters on its behalf and forks there. In Python that somebody is itself a copy of the whole template, whose page tables are copied only to be
   copied once more and thrown away. Here it runs on a stack of its own in the template's memory, while the template stands still (as vfork does),
   and what it forks returns from this function on the template's stack, of which it has a copy.

   Built without Python's headers: templates run other interpreters than the engine's. */

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK (64 * 1024)

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
   the result goes there, -1 for nowhere; a number of -1 is no call but stores its second argument, an int, at its first.
   0 when all is done; else which one failed, from 1 on, with its error in values[0]. */
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
