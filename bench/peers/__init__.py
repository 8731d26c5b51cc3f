"""Other ways to run a function, measured in the same run with the same payload and pinning.

A *competitor* hands each call to a separate worker process, as the engine does. A *bound* runs the handler inside the process that
accepts the request, so it pays for no hand-over and isolates nothing; it is listed for orientation.
"""
