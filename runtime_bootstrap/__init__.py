"""What runs inside a sandbox. Standard library and a private msgpack only; nothing of the engine."""
