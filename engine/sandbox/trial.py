"""One life of a worker, from the zygote's fork to its answers, which ``layout`` learns from: nobody confines it, and its function is the rehearsal's.

It is the same code as in every other life; only the calls that make a sandbox are left out, which touch none of the zygote's memory. Who gives it its
function is a fork of the zygote too, so that the zygote itself writes to nothing meanwhile: what it wrote to would be the worker's alone. Python 3.9,
standard library.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from engine.sandbox import forge, kernel, layout, nest, packets

if TYPE_CHECKING:
    from collections.abc import Callable

# An INIT, an event, and the directory that stands for the function's.
Piece = tuple[bytes, bytes, str]
_RESPONSE = 5
_TOLD = frozenset((1, 3, 8, 0x11))  # HELLO, NEXT, LOG, IMPORTS


def live(plan: nest.Plan, piece: Piece, serve_by: Callable[[forge.Forge], object] | None = None) -> int:
    """In a fork of the zygote: have a worker live. Its process number when it has answered two events and waits for another. ``plan``: of ``nest.bare``;
    ``serve_by``: what the zygote does with its helper, if it has one.

    Raises OSError when it does not get that far. It ends with the caller.
    """
    channel, ours = socket.socketpair()
    control, go = packets.pair()
    null = os.open("/dev/null", os.O_RDWR)
    run = plan.runs[0]
    helper = None if run is None or serve_by is None else forge.on_trial(run)
    layout.guard()
    pid, pidfd = kernel.clone3(0)
    if pid == 0:
        kernel.die_with_parent()
        if helper is not None and serve_by is not None:
            helper.try_with(control.detach(), channel.detach(), null)
            serve_by(helper)
        nest.enter_bare(plan, control.detach(), channel.detach(), null)
    for end in (channel, control):
        end.close()
    for fd in (null, pidfd):
        os.close(fd)
    init, event, directory = piece
    ours.sendall(init + event)
    go.send(os.fsencode(directory) + b"\n")
    _await_answer(ours)
    # The second answer says that the first event is over with, too.
    ours.sendall(event)
    _await_answer(ours)
    # Open for as long as the caller: the worker would end with it.
    ours.detach()
    return pid


def _await_answer(sock: socket.socket) -> None:
    """Read frames until one is a response. Raises OSError when something else comes, or nothing more."""
    while True:
        size = int.from_bytes(_exactly(sock, 4), "big")
        kind = _exactly(sock, size)[1]
        if kind == _RESPONSE:
            return
        if kind not in _TOLD:
            raise OSError(f"a trial of a worker said {kind}")


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise OSError("a trial of a worker ended")
    return data
