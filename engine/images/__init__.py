"""Container images without a container engine: read, unpacked, laid out as directories that a sandbox can have for its root.

Imports nothing else of the engine: reading somebody's archive is done by a process of its own (``python -m engine.images``).
"""
