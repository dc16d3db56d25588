"""The base class of evaluators, see `jaxlm.core.evaluator`."""

from jaxlm.core.evaluator import Evaluator, Measuring

__all__ = ["Evaluator", "Measuring"]
