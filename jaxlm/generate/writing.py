"""The writer of text with a model: its generator, and the tokenizer around it.

writer = writer_of(program, Sampling(max_tokens=64), tokenizer, ids_of(tokenizer, ends=ends), ends)
writer(params, ["Once upon a time"], seed=0)
"""

from __future__ import annotations

from jaxlm.core.sampling import Sampling
from jaxlm.core.types import Tokenizer
from jaxlm.data.prompt_formats.base import Ends
from jaxlm.data.prompts import TextIds
from jaxlm.generate.generator import Generator
from jaxlm.generate.speculative import SpeculativeGenerator
from jaxlm.generate.stops import Stops
from jaxlm.generate.writer import Writer
from jaxlm.training.program import Program


def writer_of(
    program: Program,
    sampling: Sampling,
    tokenizer: Tokenizer,
    ids: TextIds,
    ends: Ends,
    *,
    draft: Program | None = None,
    num_drafts: int = 4,
) -> Writer:
    """Text to text. draft: the program of a smaller model that guesses ahead; the parameters are
    then the pair of both models'.
    """
    size = program.model.vocab_size or tokenizer.vocab_size
    stops = Stops.of(sampling.stop, tokenizer, size)
    if draft is None:
        generator = Generator(program, sampling, eos_id=ids.eos_ids, pad_id=ids.pad_id, stops=stops)
    else:
        generator = SpeculativeGenerator(
            program,
            draft,
            sampling,
            num_drafts=num_drafts,
            eos_id=ids.eos_ids,
            pad_id=ids.pad_id,
            stops=stops,
        )
    return Writer(tokenizer, generator, ends)
