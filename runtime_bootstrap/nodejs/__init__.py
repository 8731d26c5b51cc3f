"""The managed Node.js runtime: frames without an HTTP hop. ``launch`` (Python) becomes Node.js, ``index.js`` does the rest."""
