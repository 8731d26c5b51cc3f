"""The one error of this package."""

from __future__ import annotations


class ImageRefused(Exception):
    """An image cannot be read, is not for this machine, is damaged or asks for what must not be; the text says which."""
