"""The HTTP APIs of Lambda inside one sandbox, for what does not speak frames: custom runtimes, official clients, extensions."""
