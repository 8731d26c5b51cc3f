"""What is wrong with an image."""

from __future__ import annotations


class ImageRefused(Exception):
    """It cannot be used; the text says why. ``status``: what the registry answered, 0 when it is not the registry that refuses."""

    def __init__(self, text: str, *, status: int = 0) -> None:
        super().__init__(text)
        self.status = status
