"""A worker's way from the fork to its readiness as one straight run of system calls, made by the compiled helper where there is one.

Theory of operation. Every call that Python makes touches some pages of the zygote's memory, each of which is copied for this worker: 370 until it
is locked down. What ``nest`` and ``lockdown`` lay out as steps is therefore translated, once per zygote, into a table of plain numbers and
addresses, and ``perform`` in ``_copy.c`` goes through it touching nothing else. The steps stay what decides: whatever is in them that cannot be
translated, another machine than x86-64, or no helper, and the worker goes the way in Python. Descriptors that differ from worker to
worker, and results that later calls need, are *values*: numbered places that an argument can refer to. Python 3.9, standard library.
"""

from __future__ import annotations

import ctypes as C
import os
import platform
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.sandbox import copier, kernel, landlock

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NUMBERS = {
    "write": 1, "close": 3, "sigprocmask": 14, "dup2": 33, "fcntl": 72, "setpgid": 109, "setsid": 112, "setgroups": 116, "setresuid": 117, "setresgid": 119,
    "capset": 126, "setpriority": 141, "prctl": 157, "mount": 165, "sethostname": 170, "openat": 257, "unshare": 272, "dup3": 292,
    "prlimit64": 302, "setns": 308, "open_tree": 428, "move_mount": 429, "close_range": 436, "openat2": 437, "mount_setattr": 442,
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
}  # fmt: skip
_STORE, _FUNCTION = -1, -2
_RECORD = struct.Struct("=10q")
_HERE, _LAST_FD = -100, 0x7FFFFFFE
_MOST_JOINS = 8


class Value(NamedTuple):
    """Where an argument is found when it is wanted."""

    place: int


# The error of a call that failed, the descriptors a worker is given, and one for what is needed in between.
ERROR, INIT, CONTROL, CHANNEL, OUTPUT, SCRATCH, OTHER = (Value(n) for n in range(7))
JOINS = tuple(Value(7 + n) for n in range(_MOST_JOINS))
# What a function of the compiled helpers came to.
FOUND = Value(7 + _MOST_JOINS)


class Call(NamedTuple):
    """One system call. ``result``: where it goes; ``lax``: it may fail. Bytes are passed by address."""

    step: str
    number: int
    arguments: tuple[Any, ...] = ()
    result: Value | None = None
    lax: bool = False


def call(step: str, name: str, *arguments: Any, result: Value | None = None, lax: bool = False) -> Call:
    """A call by name."""
    return Call(step, _NUMBERS[name], arguments, result, lax)


def function(step: str, address: int, result: Value) -> Call:
    """A call of a function of ours that takes nothing, gives a long and touches no memory of Python's."""
    return Call(step, _FUNCTION, (address,), result, lax=True)


class Table:
    """A run of calls in memory of its own. ``values`` is where a worker's descriptors go before it is run."""

    def __init__(self, perform: Any, calls: Sequence[Call]) -> None:
        self._perform = perform
        self._steps = [one.step for one in calls]
        self._kept: list[Any] = []
        self.values = (C.c_long * (FOUND.place + 1))()
        self._records = C.create_string_buffer(b"".join(self._record(one) for one in calls))
        self.place = (C.addressof(self._records), len(calls), C.addressof(self.values))
        records, count, values = self.place
        self._arguments = (C.c_void_p(records), C.c_int(count), C.c_void_p(values))

    def _record(self, one: Call) -> bytes:
        places = 0
        words = [0] * 6
        for n, argument in enumerate(one.arguments):
            if isinstance(argument, Value):
                places |= 1 << n
                words[n] = argument.place
            elif isinstance(argument, bytes):
                self._kept.append(C.create_string_buffer(argument))
                words[n] = C.addressof(self._kept[-1])
            else:
                words[n] = argument if argument < 1 << 63 else argument - (1 << 64)
        return _RECORD.pack(one.number, *words, places, -1 if one.result is None else one.result.place, one.lax)

    def run(self) -> None:
        """Make the calls. Raises OSError naming the step that failed."""
        failed = self._perform(*self._arguments)
        if failed:
            raise self.failure(failed)

    def failure(self, failed: int) -> OSError:
        """The failure of a call: which one, from 1 on."""
        code = self.values[ERROR.place]
        return OSError(code, f"{self._steps[failed - 1]}: {os.strerror(code)}")


def table(calls: Iterable[Call]) -> Table | None:
    """None where there is no helper for it."""
    perform = copier.perform
    if perform is None or platform.machine() != "x86_64":
        return None
    # Once here, so that the helper's own calls are bound before the fork.
    Table(perform, [call("nothing", "close", -1, lax=True)]).run()
    return Table(perform, list(calls))


class Untranslatable(Exception):
    """A step is nothing that can be told in plain calls."""


def translated(steps: Iterable[kernel.Step]) -> list[Call]:
    """What the steps do. Raises Untranslatable."""
    return [one for step in steps for one in _translate(step)]


def _translate(step: kernel.Step) -> list[Call]:
    name = getattr(step.call, "__name__", "")
    owner = getattr(step.call, "__self__", None)
    if isinstance(owner, landlock.Ruleset) and name == "restrict":
        return _restrict(step.name, owner)
    if step.call is kernel.write_file:
        path, data = step.args
        return [
            call(step.name, "openat", _HERE, os.fsencode(path), os.O_WRONLY | os.O_CLOEXEC, result=SCRATCH),
            call(step.name, "write", SCRATCH, data, len(data)),
            call(step.name, "close", SCRATCH),
        ]
    if step.call is kernel.close_from:
        return [call(step.name, "close_range", step.args[0], _LAST_FD, 0)]
    arguments = [_plain(argument) for argument in step.args]
    if name == "setrlimit":
        soft, hard = (limit & (1 << 64) - 1 for limit in step.args[1])
        return [call(step.name, "prlimit64", 0, step.args[0], struct.pack("=QQ", soft, hard), 0)]
    if name == "sethostname":
        return [call(step.name, name, os.fsencode(step.args[0]), len(step.args[0]))]
    if name == "sigprocmask":
        return [call(step.name, name, *arguments, 8)]
    if name == "syscall":
        return [Call(step.name, arguments[0], tuple(arguments[1:4]))]
    if name in _NUMBERS:
        return [call(step.name, name, *arguments)]
    raise Untranslatable(step.name)


def _plain(argument: Any) -> Any:
    if argument is None:
        return 0
    if isinstance(argument, (int, bytes, str, tuple)):
        return argument
    if isinstance(argument, C._SimpleCData):
        return int(argument.value)
    if isinstance(argument, C.Array):
        return C.addressof(argument)
    raise Untranslatable(repr(argument))


def _restrict(step: str, ruleset: landlock.Ruleset) -> list[Call]:
    calls = [call(step, "landlock_create_ruleset", ruleset.attributes, len(ruleset.attributes), 0, result=SCRATCH)]
    for fd, access in ruleset.opened:
        calls.append(call(step, "landlock_add_rule", SCRATCH, 1, struct.pack("=Qi", access, fd), 0))
    for path, access in ruleset.writable:
        rule = C.create_string_buffer(struct.pack("=Qi", access, -1), 12)
        _RULES.append(rule)
        address = C.addressof(rule)
        calls += [
            call(step, "openat", _HERE, os.fsencode(path), os.O_PATH | os.O_CLOEXEC, result=OTHER),
            Call(step, _STORE, (address + 8, OTHER)),
            call(step, "landlock_add_rule", SCRATCH, 1, address, 0),
            call(step, "close", OTHER),
        ]
    return [*calls, call(step, "landlock_restrict_self", SCRATCH, 0), call(step, "close", SCRATCH)]


# Rules that are completed on the way; for as long as the process.
_RULES: list[Any] = []
