"""The description of a model family: presets, the map of its config.json, the table of its tensors.

    FAMILY = Family(name="llama", architectures=("LlamaForCausalLM",),
                    from_hf=..., to_hf=..., tensors=..., presets={"llama-3.1-8b": ...})

The rows of the table are `Tensor`s (shared/tensor.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.types import ModelConfig
from jaxlm.models.families.shared.kinds import check_kinds
from jaxlm.models.families.shared.tensor import Tensor
from jaxlm.models.families.shared.values import Values, refuse_unread_positions

HEAD = "lm_head.weight"  # in the families that have classes without a head
# Buffers that any file may hold: what is computed from the config alone.
BUFFERS = (r"\brotary_emb\.inv_freq$", r"\bposition_ids$")


@dataclass(frozen=True)
class Family:
    """A family of published models."""

    name: str
    architectures: tuple[str, ...]  # classes of Hugging Face transformers that hold such a model
    from_hf: Callable[[Mapping[str, Any]], ModelConfig]  # config.json -> config; raises UserError
    to_hf: Callable[[Any], dict[str, Any]]  # config -> config.json; raises UserError
    tensors: Callable[[Any], list[Tensor]]  # the table of a config
    presets: Mapping[str, ModelConfig] = field(default_factory=dict)
    num_params: Mapping[str, int] = field(default_factory=dict)  # of each preset, as published
    model_types: tuple[str, ...] = ()  # what config.json's model_type can be; () is the name
    # Patterns of tensors that a file may have besides: masks, and what is not of a language model.
    # "{num_layers}" in a pattern is the number after that of the last layer.
    ignored: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()  # classes that hold it without its head over the vocabulary
    # Keys of config.json that shape nothing, besides those of any family.
    idle: tuple[str, ...] = ()
    prefix: str = ""  # of tensors' names outside of the head; some files leave it out
    older: tuple[tuple[str, str], ...] = ()  # how names end, and how they did in older files
    # Parts of tensors' names, and what they are in the modules of its class, where they differ.
    modules: tuple[tuple[str, str], ...] = ()
    # The config with what the names of a file's tensors say and its config.json leaves open.
    completed: Callable[[Any, Collection[str]], Any] = lambda config, names: config

    # Classes with a head for a task (`TaskClass`s), and {class: why it is not read} of others.
    tasks: tuple[Any, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes that hold such a model: with its head, without, or with one for a task."""
        return self.architectures + self.bases + tuple(task.name for task in self.tasks)

    def task_called(self, architecture: str) -> Any:
        """The class with a head for a task that has this name; None for another class."""
        return next((task for task in self.tasks if task.name == architecture), None)

    def lacks_head(self, values: Mapping[str, Any], names: Collection[str]) -> bool:
        """Whether neither the class in a config.json nor its file has a head for the vocabulary."""
        base = (values.get("architectures") or [None])[0] in self.bases
        return base and not any(name.endswith(HEAD) for name in names)

    def model_of(self, values: Mapping[str, Any], names: Collection[str]) -> Any:
        """The model of a config.json whose files have tensors of these names.

        For a class without a head, the head is the embedding and not a parameter of its own.
        """
        model = self.completed(self.from_hf(values), names)
        if self.lacks_head(values, names):
            model = model.replace(head=model.head.replace(tied=True))
        return model

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_hf", _complete(self.from_hf))


def _complete(from_hf: Callable[[Mapping[str, Any]], ModelConfig]) -> Any:
    """`from_hf` that turns an absent key, or a value that its arithmetic cannot use, into a
    `UserError`. `Values` record which keys it reads."""

    def read(values: Mapping[str, Any]) -> ModelConfig:
        remembered = values if isinstance(values, Values) else Values(values)
        check_kinds(remembered.plain)
        try:
            config = from_hf(remembered)
            refuse_unread_positions(remembered)
            return config
        except UserError:
            raise
        except KeyError as error:
            said = f"lacks {error.args[0]}"
        except (
            TypeError,
            ZeroDivisionError,
            IndexError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            said = f"has a value that no such model has ({error})"
        raise UserError(f"config.json: {said}; take the file that came with the model")

    return read
