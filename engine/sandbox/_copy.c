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
