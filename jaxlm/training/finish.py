"""The end of a run: the last evaluation and samples, the checksum, result.json."""

from __future__ import annotations

from typing import Any

from flax import nnx

from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.core import config as configs
from jaxlm.core.exit_codes import DONE
from jaxlm.core.measures import Measure, notes_of, tables_of, values_of
from jaxlm.core.tree import flatten
from jaxlm.distributed.watchdog import PATIENCE
from jaxlm.nn.stored_kernel import count_of
from jaxlm.run import config_sha256
from jaxlm.runs.trackers import extent
from jaxlm.training.callbacks.evaluate import Evaluate
from jaxlm.training.callbacks.sample import Sample
from jaxlm.training.context import Context
from jaxlm.training.outcome import Outcome

NUM_PARAMS = Measure("num_params", label="parameters", show="headline", format="count")
PARAM_SHA256 = Measure("param_sha256", label="SHA-256 of the parameters")
CONFIG_SHA256 = Measure("config_sha256", label="SHA-256 of the configuration")


def finish(run: Context, evaluate: Evaluate, sample: Sample) -> Outcome:
    """Measures the state after the last step and writes the result. Call it in all processes."""
    measures = evaluate.at_end(run)
    sample.write(run)
    # parameter after parameter is copied to the host, without a beat
    with run.watch("other"), run.watchdog.doing("checksum of the parameters", PATIENCE):
        digest = param_sha256(run.state["params"])
        model = nnx.merge(run.session.program.graphdef, run.params)
        findings = run.config.objective.findings(model, run.session.prepared.tokenizer)
    about = [
        NUM_PARAMS.of(count_of(flatten(run.params))),
        PARAM_SHA256.of(digest),
        CONFIG_SHA256.of(config_sha256(run.config)),
    ]
    result: dict[str, Any] = {
        "step": run.step,
        "final": values_of([*measures, *about]),
        **({"notes": notes} if (notes := notes_of(measures)) else {}),
        **evaluate.extent(run),
        **tables_of(measures),
        **findings,
    }
    if run.skips:
        result["skipped"] = run.skips
    if run.stopped_early:
        early = run.config.early_stop
        settings = None if early is None else configs.to_dict(early)
        result["stopped"] = {"reason": run.stopping, "of": run.total, "early_stop": settings}
    if run.first:
        run.records.write_displays(about)
        run.records.write_result(result)
    how = f"done: step {run.step} of {run.total}"
    if run.stopped_early:
        how = f"stopped early: step {run.step} of {run.total}; {run.stopping}"
    what = f"; evaluated on {extent(result['evaluated'])}" if "evaluated" in result else ""
    return Outcome(DONE, f"{how}{what}", result)
