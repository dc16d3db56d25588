"""The content of a run's folder: its paths, log, metrics, progress, records, environment."""
