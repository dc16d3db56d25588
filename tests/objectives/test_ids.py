"""Where masks, sentinels and starts come from: the config, the tokenizer's files, or spare ids."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from jaxlm.core.config import UserError
from jaxlm.core.rows import text_rows
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.data.tokenizers.huggingface import HuggingFaceTokenizer
from jaxlm.data.tokenizers.sentencepieces import SentencePiece
from jaxlm.models.blocks import StackConfig
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.learned_blocks import LearnedBlocksConfig
from jaxlm.objectives.blank_infilling import BlankInfilling
from jaxlm.objectives.ids import choose_ids
from jaxlm.objectives.masked_lm import MaskedLM
from jaxlm.objectives.span_corruption import SpanCorruption

BYTES = ByteTokenizer()


def words(*special: str) -> HuggingFaceTokenizer:
    """Two words and special tokens after them."""
    from tokenizers import AddedToken, Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({"to": 0, "be": 1}, unk_token="to"))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    return HuggingFaceTokenizer(json.dumps(json.loads(tokenizer.to_str())).encode(), {})


def resolved(objective, tokenizer, size, seq_len=64, **model):
    prepared = SimpleNamespace(
        tokenizer=tokenizer, seq_len=seq_len, row_spec=text_rows(seq_len + 1)
    )
    return objective.resolve(prepared, TransformerConfig(vocab_size=size, **model))


def test_usual_spellings_are_found_in_a_tokenizers_files():
    assert resolved(MaskedLM(), words("<mask>"), 3).mask == 2
    assert resolved(MaskedLM(), words("<mask>", "[MASK]"), 4).mask == 3
    marks = [f"<extra_id_{i}>" for i in range(6)]
    found = resolved(SpanCorruption(), words("<pad>", *reversed(marks)), 9)  # 10 of 64, in 3 spans
    assert (found.sentinels, found.start) == ((8, 7, 6, 5), 2)
    glm = words("[MASK]", "[gMASK]", "<eop>", "<sop>", "</s>")
    found = resolved(BlankInfilling(), glm, 7)
    assert (found.mask, found.long_mask, found.start, found.end) == (2, 3, 5, 6)
    assert resolved(BlankInfilling(end="<eop>"), glm, 7).end == 4


def test_pieces_of_a_sentencepiece_model(tmp_path):
    texts = lambda: iter(["to be or not to be " * 20])  # noqa: E731
    tokenizer = SentencePiece(vocab_size=280, byte_fallback=True).build(texts, "x", tmp_path)
    assert tokenizer.id_of("<s>") == tokenizer.bos_id
    assert tokenizer.id_of("[MASK]") is None
    assert tokenizer.id_of(tokenizer.spelling(275)) == 275
    assert resolved(MaskedLM(), tokenizer, 281).mask == 280


def test_what_the_config_names_comes_first():
    assert resolved(MaskedLM(mask=7), words("[MASK]"), 300).mask == 7
    assert resolved(MaskedLM(mask="be"), words("[MASK]"), 300).mask == 1
    source = {"encoder": StackConfig(attention=MultiHeadConfig(is_causal=False))}
    source["prompt"] = EncodeSource(start_id=5)
    assert resolved(SpanCorruption(), BYTES, 300, **source).start == 5
    blanks = {"position": (LearnedBlocksConfig(max_seq_len=80),)}
    blanks["prompt"] = FillBlank(start_id=5)
    assert resolved(BlankInfilling(), BYTES, 300, **blanks).start == 5
    found = resolved(BlankInfilling(start=299), BYTES, 300)  # the others pass it over
    assert (found.mask, found.long_mask) == (298, 297)
    few = resolved(BlankInfilling(long_rows=0.0), BYTES, 261)
    assert (few.mask, few.start, few.long_mask) == (260, 259, None)
    assert resolved(SpanCorruption(sentinels=(9, 8, 7, 6)), BYTES, 259).sentinels == (9, 8, 7, 6)


@pytest.mark.parametrize(
    ("objective", "size", "says"),
    [
        (MaskedLM(), 259, r"mask: the tokenizer has no \[MASK\].* at least 260"),
        (SpanCorruption(), 261, r"sentinels\[2\]: the tokenizer has no <extra_id_2>.* least 263"),
        (SpanCorruption(sentinels=(300, 299)), 301, "2 are too few for 3 spans"),
        (MaskedLM(mask="[MASK]"), 300, r"no token '\[MASK\]'; name one that it has"),
        (MaskedLM(mask=300), 300, "300 exceeds the model's 300 ids"),
        (BlankInfilling(mask=1, start=1), 300, "start: has the id of mask, 1"),
    ],
)
def test_ids_that_are_not_there(objective, size, says):
    with pytest.raises(UserError, match=says) as error:
        resolved(objective, BYTES, size)
    assert "\n" not in str(error.value) and str(error.value).startswith("objective.")


def test_the_order_is_that_of_the_names():
    model = TransformerConfig(vocab_size=262)
    wanted = {"a": (None, ()), "b": (3, ()), "c": (None, ())}
    assert [*choose_ids(wanted, BYTES, model).items()] == [("a", 261), ("b", 3), ("c", 260)]
