"""Code written in the template itself."""

from __future__ import annotations

import io
import zipfile

from engine.cli.package import EPOCH


def package(text: str, runtime: str) -> bytes:
    """The package of inline code: one file, ``index`` with the runtime's suffix, as CloudFormation makes it."""
    name = "index.js" if runtime.startswith("nodejs") else "index.py"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(name, EPOCH)
        entry.external_attr = 0o100644 << 16
        archive.writestr(entry, text)
    return buffer.getvalue()
