"""What a run's folder holds: its paths, log, metrics, progress, records, environment."""
