"""Text from a model, of any family.

generator = Generator(program, Sampling(max_tokens=64, temperature=0.8), eos_id=2, pad_id=0)
Writer(tokenizer, generator, Ends(bos=True, eos=True))(params, ["Once upon a time"], seed=0)

writer        text in, text out
writing       a generator with the tokenizer around it
sampling      how the next token is chosen
processors    what changes its logits before: penalties, n-grams that may not repeat
stops         texts that end a text
reader        what a model has read: its cache, its state, what is read next
generator     the loop, token by token or by beams
beam          the search with several beams
speculative   drafts of a small model, read by a large one
"""

from jaxlm.core.sampling import Sampling, SamplingOptions
from jaxlm.data.prompts import (
    Ends,
    check_prompts,
    encode_prompt,
    ends_of,
    ids_of,
)
from jaxlm.generate.generator import Generator
from jaxlm.generate.sampling import cut, next_token
from jaxlm.generate.stops import Stops
from jaxlm.generate.writer import Text, Writer
from jaxlm.generate.writing import writer_of

__all__ = [
    "Ends",
    "Generator",
    "Sampling",
    "Text",
    "SamplingOptions",
    "Stops",
    "Writer",
    "check_prompts",
    "cut",
    "encode_prompt",
    "ends_of",
    "ids_of",
    "next_token",
    "writer_of",
]
