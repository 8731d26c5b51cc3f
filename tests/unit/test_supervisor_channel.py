"""The supervisor's end of a connection, as it goes from seldom heard to often heard."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from engine.supervisor import channel as module
from engine.supervisor.channel import Channel
from engine.supervisor.ears import Ears

FRAME, NO_FRAME = b"\0\0\0\1x", b"\xff\xff\xff\xff"


@pytest.mark.parametrize("frames", range(module.SELDOM + 2))
def test_a_channel_closed_over_what_it_hears_is_heard_no_more(frames: int) -> None:
    """At the last message before it would be heard often, too."""

    async def go() -> None:
        loop = asyncio.get_running_loop()
        surprises: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: surprises.append(context))
        ours, theirs = socket.socketpair()
        heard: list[bytes] = []
        done = asyncio.Event()

        def end(_error: object = None) -> None:
            channel.close()
            done.set()

        channel = Channel(Ears(loop), ours.detach(), heard.append, end, end)
        channel.listen(None)
        for n in range(frames):
            theirs.sendall(FRAME)
            while len(heard) <= n:
                await asyncio.sleep(0.001)
        theirs.sendall(NO_FRAME)
        await asyncio.wait_for(done.wait(), 60)
        # Whoever gets its number next is not heard by it.
        read, write = os.pipe()
        os.write(write, b"x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert os.read(read, 1) == b"x"
        assert not surprises
        assert len(heard) == frames
        theirs.close()
        os.close(read)
        os.close(write)

    asyncio.run(go())
