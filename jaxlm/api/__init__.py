"""jaxlm from Python: trains and uses runs.

    run = jaxlm.train("configs/quickstart.yaml", ["train.steps=100"])
    run.metrics[-1]["eval/loss"]
    run.generate("To be, or not", max_tokens=32)

    run = jaxlm.load("runs/quickstart")         # or a folder in Hugging Face's format
    run.logits(["To be"]).shape                 # (1, 5, 82)
    run.perplexity(["To be, or not to be"])
    jaxlm.load("runs/reviews").predict("new.csv")   # [{"label": "good", "score": 0.93, ...}, ...]

    for step in jaxlm.steps("configs/quickstart.yaml"):
        print(step.step, step.metrics["loss"])

Every function raises `UserError` for a mistake of the caller. `docs/python.md` is the guide.
"""

from jaxlm.api.opening import fit
from jaxlm.api.run import Run, load
from jaxlm.api.stepping import Step, Steps, steps
from jaxlm.api.training import train

__all__ = ["Run", "Step", "Steps", "fit", "load", "steps", "train"]
