"""GKD: distillation on texts that the student writes (Agarwal et al. 2023, arXiv:2306.13649).

    objective: {type: gkd, teacher: {from: runs/large}, lmbda: 0.5, beta: 0.5, max_tokens: 64}

With probability `lmbda` the texts of a step are the student's own: it continues the prompts of the
step's records, and learns the teacher's probabilities of the tokens of its completions. At the
other steps they are the records' own completions. lmbda 1 is on-policy distillation, 0 is that of
`jaxlm.objectives.distill`, whose losses these are: by default the generalised Jensen-Shannon
divergence alone. The names are those of TRL's GKDTrainer; `max_tokens` is its max_new_tokens, and
`sampling_temperature` its temperature: that of the loss is 1 there.

Which steps these are follows from the seed and the step, as the texts do, so a run that was killed
does the same again. No gradient goes through the draws. A `weight` below 1 adds the cross entropy
of the records' completions: the student's own are not learnt as answers. With `objective.packing`
several of the student's texts share a row of the train step; each of the records' has its own row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.core.sampling import Sampling
from jaxlm.objectives.base import Loss, Transform, record_rng
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.distill import Distill
from jaxlm.objectives.on_policy import PACKS_WRITTEN, OnPolicy
from jaxlm.objectives.prediction import PREDICTED, shifted

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, LanguageModel, Tokenizer

OWN = "own_texts"  # a key of a batch: 1 where the student wrote the row, else 0
OF_TEXT = {**PREDICTED, "num_bytes": Entry(()), "num_chars": Entry(())}


@dataclass(frozen=True, kw_only=True)
class GKD(OnPolicy, Distill):
    """Predict the next token of its own texts as a teacher does."""

    instead_of_packing: ClassVar[str] = PACKS_WRITTEN

    lmbda: float = field(0.5, "share of the steps whose texts the student writes", ge=0, le=1)
    divergence: Literal["kl", "jsd"] = field("jsd", "how far the student is from the teacher")
    temperature: float = field(1.0, "both softmaxes are of logits divided by it", gt=0)
    weight: float = field(
        1.0, "share of the loss that is the teacher's, on texts of the data", ge=0, le=1
    )
    sampling_temperature: float = field(
        0.9, "the student's logits are divided by it, to draw", gt=0
    )

    packing: Literal["whole"] | None = field(
        None, "whole: fit several completions into a row of the train step; null: one a row"
    )

    @property
    def packs(self) -> bool:
        return self.packing is not None

    @property
    def train_displays(self) -> tuple[Measure, ...]:
        return (Measure(OWN, label="steps on the student's own texts", format="percent"),)

    @property
    def why_answers(self) -> str | None:
        return None if self.lmbda == 1 else "learns the answers of records where lmbda is below 1"

    # ------------------------------------------------------------------------------ the rollout

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_tokens=self.max_tokens, temperature=self.sampling_temperature)

    def writes(self, step: int, seed: int) -> bool:
        # the first draw of this generator is the seed of the texts
        return bool(record_rng(seed, step).random_sample(2)[1] < self.lmbda)

    def written_transform(self, tokenizer: Tokenizer) -> Transform:
        as_text, size = CausalLM().host_transform(tokenizer, 0), tokenizer.vocab_size

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            known = row["tokens"] < size  # the model may write later ids, which have no bytes
            counted = {
                "tokens": np.where(known, row["tokens"], 0),
                "loss_weights": row["loss_weights"] * known,
            }
            return {**as_text({**row, **counted}, index), **shifted(row)}

        return transform

    def rollout_spec(self, length: int) -> RowSpec:
        return RowSpec({**OF_TEXT, OWN: Entry((), "float32")}, T=length)

    def rollout(self, batch: Batch) -> Mapping[str, jax.Array]:
        return {**{name: batch[name] for name in OF_TEXT}, OWN: jnp.ones(len(batch["tokens"]))}

    def of_records(self, batch: Batch) -> Mapping[str, jax.Array]:
        return {**{name: batch[name] for name in OF_TEXT}, OWN: jnp.zeros(len(batch["tokens"]))}

    # --------------------------------------------------------------------------------- the loss

    def share(self, batch: Batch) -> float | jax.Array:
        if OWN not in batch:
            return self.weight
        return jnp.where(batch[OWN].max() > 0, 1.0, self.weight)

    def loss_beside(
        self,
        model: LanguageModel,
        beside: Mapping[str, Any],
        batch: Batch,
        *,
        key: jax.Array | None,
        cache: Cache | None,
    ) -> Loss:
        found = super().loss_beside(model, beside, batch, key=key, cache=cache)
        if OWN not in batch:
            return found
        own = (batch[OWN].sum(), jnp.float32(len(batch[OWN])))
        return found._replace(metrics={**found.metrics, OWN: own})
