"""The folder that a verb uses: that of a run, or of a model in Hugging Face's format."""

from __future__ import annotations

from pathlib import Path


def run_folder(folder: str) -> str:
    """`folder`, or the run in the cache that a folder in Hugging Face's format is imported to."""
    from jaxlm.runs.folder import is_hugging_face

    if not is_hugging_face(folder):
        return folder
    from jaxlm.cli.shared.training import say
    from jaxlm.hf.cached import imported

    return str(imported(Path(folder), say))
