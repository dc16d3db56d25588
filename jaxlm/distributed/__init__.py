"""Several processes of one run: their start, heartbeats, agreement, signals and watchdog."""
