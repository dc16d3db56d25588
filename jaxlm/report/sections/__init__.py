"""The sections of a report, one file each. See `jaxlm.report.section`."""
