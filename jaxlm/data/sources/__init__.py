"""Where documents come from: files, tables, public corpora."""
