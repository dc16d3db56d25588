"""Distillation: a student learns the next token and the probabilities of a frozen teacher.

With the logits z of the student and t of the teacher, p^T = softmax(. / T) and a = `weight`,

    loss = (1 - a) CE + a T^2 KL(p_t^T || p_s^T) + hidden_weight mean_i (W h_s - h_t)_i^2

for each token that counts (Hinton et al. 2015, arXiv:1503.02531). T^2 keeps the gradient's size as
T grows. The last term compares the last hidden states; W is there where their sizes differ. The
losses of the student's routers are added to it, whatever `weight` is.

    top_k       the teacher's k likeliest tokens by themselves; all others are one event, in both
    divergence  jsd: the generalised Jensen-Shannon divergence of Agarwal et al. 2023
                (arXiv:2306.13649) in place of T^2 KL: with m = b p_t + (1 - b) p_s,
                b KL(p_t || m) + (1 - b) KL(p_s || m); beta b = 0 is KL(p_t || p_s), 1 the reverse

Texts are those of the data (off-policy); `jaxlm.objectives.gkd` has the student's own as well.
Logits of both models exist for some tokens at a time.

    objective: {type: distill, teacher: {from: runs/large}, temperature: 2.0, weight: 0.5}

The teacher is a run, of another size or another kind of model, with the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.kernels.cross_entropy import HeadParams, logits
from jaxlm.kernels.head_chunks import over_chunks
from jaxlm.nn.heads.base import NAME
from jaxlm.objectives.base import LOSS, FrozenModel, Loss
from jaxlm.objectives.base_pairs import read
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.prediction import ACCURACY

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, LanguageModel, ModelConfig

DIVERGENCE = Measure(
    "divergence", better="lower", label="divergence from the teacher", format=".4f"
)
HIDDEN = Measure("hidden", better="lower", label="distance of hidden states", format=".4f")


@dataclass(frozen=True, kw_only=True)
class Distill(CausalLM):
    """Predict the next token as a teacher does."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, DIVERGENCE, ACCURACY, HIDDEN)

    teacher: FrozenModel = field(FrozenModel, "the frozen model whose probabilities are learnt")
    weight: float = field(0.5, "share of the loss that is the teacher's", ge=0, le=1)
    temperature: float = field(2.0, "both softmaxes are of logits divided by it", gt=0)
    divergence: Literal["kl", "jsd"] = field("kl", "how far the student is from the teacher")
    beta: float = field(0.5, "the teacher's share of the mixture of jsd", ge=0, le=1)
    top_k: int | None = field(
        None, "kl of the teacher's k likeliest tokens, the others together; null: of all", ge=1
    )
    hidden_weight: float = field(0.0, "weight of the distance of the last hidden states", ge=0)
    projection: int | None = field(
        None,
        "the teacher's hidden size, where the student's is another; null: they are equal",
        ge=1,
    )

    def validate(self) -> None:
        if self.teacher.from_ is None:
            raise UserError("teacher.from: names no teacher; set it to the folder of a run")
        if self.top_k is not None and self.divergence != "kl":
            raise UserError(f"top_k: divergence {self.divergence} has none; set it to null")
        if self.projection is not None and not self.hidden_weight:
            raise UserError(
                "projection: hidden_weight is 0, so nothing is projected; set it to null"
            )

    @property
    def references(self) -> Mapping[str, FrozenModel]:
        return {"teacher": self.teacher}

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        built = super().build_model(model, rngs=rngs)
        if self.projection is not None:
            setattr(built, NAME, Projection(model.output_size, self.projection, rngs=rngs))
        return built

    def loss_beside(
        self,
        model: LanguageModel,
        beside: Mapping[str, Any],
        batch: Batch,
        *,
        key: jax.Array | None,
        cache: Cache | None,
    ) -> Loss:
        out, teacher = self.read(model, batch, key, cache), beside["teacher"]
        own, known = self.predicted(model, out, batch), read(teacher, batch).hidden
        known = jax.lax.stop_gradient(known)
        weights = batch["loss_weights"]
        head, teachers = model.head(), jax.lax.stop_gradient(teacher.head().gathered())
        inputs = model.head_input(out.hidden), jax.lax.stop_gradient(teacher.head_input(known))

        def of_chunk(head: HeadParams, x: jax.Array, y: jax.Array) -> jax.Array:
            """[B, C, D] each -> [B, C]"""
            return self._divergence(logits(x, head), logits(y, teachers))

        far = (over_chunks(of_chunk, head, *inputs) * weights).sum()
        routers = sum(own.metrics[name][0] for name in out.losses)  # are part of own.loss_sum
        plain = own.loss_sum - routers
        share = self.share(batch)
        loss_sum = (1 - share) * plain + share * self._scale * far + routers
        metrics = {**own.metrics, "divergence": (jax.lax.stop_gradient(far), own.weight)}
        if self.hidden_weight:
            apart = (self._distance(model, out.hidden, known) * weights).sum()
            loss_sum += self.hidden_weight * apart
            metrics["hidden"] = (jax.lax.stop_gradient(apart), own.weight)
        return own._replace(loss_sum=loss_sum, metrics=metrics)

    def share(self, batch: Batch) -> float | jax.Array:
        """The share of the loss of these rows that is the teacher's, in [0, 1]."""
        return self.weight

    @property
    def _scale(self) -> float:
        return self.temperature**2 if self.divergence == "kl" else 1.0

    def _divergence(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        if self.divergence == "jsd":
            return jsd(student, teacher, beta=self.beta, temperature=self.temperature)
        return kl(student, teacher, temperature=self.temperature, top_k=self.top_k)

    def _distance(self, model: LanguageModel, own: jax.Array, known: jax.Array) -> jax.Array:
        """[B, T]"""
        own, known = own.astype(jnp.float32), known.astype(jnp.float32)
        if self.projection is not None:
            own = model.task_head(own)
        if own.shape[-1] != known.shape[-1]:
            raise UserError(
                f"objective.projection: the teacher's hidden states have {known.shape[-1]} numbers "
                f"and these have {own.shape[-1]}; set it to {known.shape[-1]}"
            )
        return jnp.square(own - known).mean(-1)


class Projection(nnx.Module):
    """W [D, D'], from the student's hidden states to the teacher's; trained, and fresh at first."""

    def __init__(self, dim: int, other: int, *, rngs: nnx.Rngs) -> None:
        kernel = dim**-0.5 * jax.random.normal(rngs.params(), (dim, other))
        self.kernel = nnx.Param(kernel, axes=("embed", "labels"))

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return hidden @ self.kernel[...]


def kl(
    student: jax.Array,  # [..., V] logits
    teacher: jax.Array,  # [..., V]
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> jax.Array:  # [...]
    """KL(p_t^T || p_s^T), without T^2. top_k: of the distribution over the teacher's k likeliest
    tokens and one event that is all others; k is at most V - 1.
    """
    s, t = (jax.nn.log_softmax(z / temperature) for z in (student, teacher))
    if top_k is None:
        return (jnp.exp(t) * (t - s)).sum(-1)
    t_top, ids = jax.lax.top_k(t, min(top_k, t.shape[-1] - 1))
    s_top = jnp.take_along_axis(s, ids, axis=-1)
    is_top = jnp.put_along_axis(jnp.zeros(t.shape, bool), ids, True, axis=-1, inplace=False)
    s_rest, t_rest = (jax.nn.logsumexp(jnp.where(is_top, -jnp.inf, x), axis=-1) for x in (s, t))
    return (jnp.exp(t_top) * (t_top - s_top)).sum(-1) + jnp.exp(t_rest) * (t_rest - s_rest)


def jsd(
    student: jax.Array,  # [..., V] logits
    teacher: jax.Array,  # [..., V]
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> jax.Array:  # [...]
    """The generalised Jensen-Shannon divergence, as the module's docstring gives it."""
    s, t = (jax.nn.log_softmax(z / temperature) for z in (student, teacher))
    if beta == 0:
        return (jnp.exp(t) * (t - s)).sum(-1)
    if beta == 1:
        return (jnp.exp(s) * (s - t)).sum(-1)
    m = jnp.logaddexp(s + jnp.log1p(-beta), t + jnp.log(beta))
    return (beta * jnp.exp(t) * (t - m) + (1 - beta) * jnp.exp(s) * (s - m)).sum(-1)
