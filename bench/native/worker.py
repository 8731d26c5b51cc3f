"""The least Python worker: blocking reads, fixed offsets, frames echoed. Run with -I -S; the argument is a socket's number."""

from __future__ import annotations

import socket
import sys


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    buffer = b""
    while True:
        data = sock.recv(65536)
        if not data:
            return
        buffer = buffer + data if buffer else data
        while len(buffer) >= 4:
            size = 4 + int.from_bytes(buffer[:4], "big")
            if len(buffer) < size:
                pieces = [buffer]
                have = len(buffer)
                while have < size:
                    piece = sock.recv(min(1 << 20, size - have))
                    if not piece:
                        return
                    pieces.append(piece)
                    have += len(piece)
                buffer = b"".join(pieces)
            sock.sendall(buffer[:size])
            buffer = buffer[size:]


main()
