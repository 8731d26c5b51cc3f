"""Packs a text in every way the standard library knows, unpacks it again, and keeps an archive in /tmp."""

import bz2
import gzip
import hashlib
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib


def f(event, context):
    data = (event["text"] * event["times"]).encode()
    sizes = {}
    for module in (zlib, bz2, lzma, gzip):
        packed = module.compress(data)
        assert module.decompress(packed) == data
        sizes[module.__name__] = len(packed)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        with open(folder + "/plain", "wb") as out:
            out.write(data)
        with tarfile.open(folder + "/a.tar.xz", "w:xz") as tar:
            tar.add(folder + "/plain", "plain")
        with zipfile.ZipFile(folder + "/a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder + "/plain", "plain")
        with tarfile.open(folder + "/a.tar.xz") as tar, zipfile.ZipFile(folder + "/a.zip") as archive:
            assert tar.extractfile("plain").read() == archive.read("plain") == data
    return {"sizes": sizes, "left": os.listdir("/tmp"), "sha256": hashlib.sha256(data).hexdigest()}
