"""The processes of a run: start, heartbeats, consensus, signals, preemption and watchdog."""
