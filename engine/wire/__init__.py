"""The msgpack frame protocol: pure values and state, no sockets."""
