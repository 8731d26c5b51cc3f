"""What the embedded AWS pushes to functions of the engine: notifications, subscriptions, rules, schedules. Runs in the embedded AWS's process."""
