"""A config.json that remembers which of its keys a family reads.

    values = Values(json.loads(text))
    config = family.from_hf(values)
    values.unread(family.idle)            # {"logit_scale": 0.5}: the model is the same without it

A key that is not read is either known to shape no model (`IDLE`), or reported. In rope_parameters
and rope_scaling, which hold nothing else, it is an error.

Defaults and replacements are joined by `|`, which keeps the memory where `{**a, **b}` would read
all keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxlm.core.errors import UserError, few, shown

# Keys that shape no model, in the files of any family: what the file is of; how a program runs it;
# how it was trained, and from which weights; heads that are not in it; tokens, which `jaxlm.hf`
# reads, and generation; how long the texts were (families with a table of positions read its size).
_IDLE = """
architectures model_type transformers_version _name_or_path name_or_path auto_map custom_code dtype
torch_dtype _commit_hash is_encoder_decoder tokenizer_class unsloth_version

use_cache return_dict output_attentions output_hidden_states output_router_logits torchscript
gradient_checkpointing use_bfloat16 use_flash_attn pretraining_tp attn_implementation
_attn_implementation experts_implementation cache_implementation chunk_size_feed_forward
tf_legacy_loss reorder_and_upcast_attn attention_softmax_in_fp32 fp32_residual_connection
apply_query_key_layer_scaling ep_size

attention_dropout attention_probs_dropout_prob attn_pdrop classifier_dropout dropout_rate dropout
embd_pdrop hidden_dropout hidden_dropout_prob resid_pdrop embedding_dropout_prob
attention_dropout_prob output_dropout_prob initializer_range initializer_factor seq_aux

summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
id2label label2id num_labels problem_type finetuning_task task_specific_params

bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id mask_token_id
decoder_start_token_id forced_bos_token_id forced_eos_token_id suppress_tokens prefix
begin_suppress_tokens bad_words_ids min_length max_length max_new_tokens do_sample top_k top_p
temperature num_beams num_return_sequences repetition_penalty length_penalty early_stopping
no_repeat_ngram_size remove_invalid_values

max_position_embeddings n_ctx seq_length seq_len model_max_length max_seq_len
"""
IDLE = frozenset(_IDLE.split())
ROPE = {"rope_parameters", "rope_scaling"}  # objects that hold nothing but what shapes a model


class Values(Mapping[str, Any]):
    """A mapping that remembers which keys were read, by their path ("rope_parameters.factor")."""

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        seen: set[str] | None = None,
        where: str = "",
        own: Collection[str] | None = None,  # keys that are the file's and not put over it
    ) -> None:
        self.plain = dict(values)
        self.seen: set[str] = set() if seen is None else seen
        self.where = where
        self.own = set(self.plain if own is None else own)

    def __getitem__(self, key: str) -> Any:
        value = self.plain[key]
        if key not in self.own:
            return value
        self.seen.add(self.where + key)
        if not isinstance(value, dict):
            return value
        return Values(value, seen=self.seen, where=f"{self.where}{key}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain)

    def __len__(self) -> int:
        return len(self.plain)

    def __contains__(self, key: object) -> bool:  # looking for a key is not reading it
        return key in self.plain

    def __or__(self, other: Mapping[str, Any]) -> Values:
        """These with others over them: what the file has there is not read."""
        merged, own = {**self.plain, **other}, self.own - other.keys()
        return Values(merged, seen=self.seen, where=self.where, own=own)

    def __ror__(self, other: Mapping[str, Any]) -> Values:
        """These over others, such as the defaults of a class."""
        merged = {**other, **self.plain}
        return Values(merged, seen=self.seen, where=self.where, own=self.own)

    def __eq__(self, other: object) -> bool:
        return self.plain == (other.plain if isinstance(other, Values) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.plain)

    def unread(self, idle: Collection[str] = ()) -> dict[str, Any]:
        """{path: value} of what was not read, is set, and may shape a model."""
        found = _leaves({key: self.plain[key] for key in self.own}, "", self.seen)
        harmless = IDLE | set(idle)
        return {
            path: value
            for path, value in sorted(found, key=lambda item: item[0])
            if path not in self.seen
            and value is not None
            and value is not False
            and path.rpartition(".")[2] not in harmless
        }


def _leaves(part: Mapping[str, Any], where: str, seen: set[str]) -> Iterator[tuple[str, Any]]:
    """Paths and values of an object; those inside another object, where that was read."""
    for key, value in part.items():
        path = where + key
        if isinstance(value, dict) and path in seen:
            yield from _leaves(value, f"{path}.", seen)
        else:
            yield path, value


def refuse_unread_positions(values: Values) -> None:
    """Raises `UserError` for keys of rope_parameters or rope_scaling that nothing read."""
    found = [
        f"{path} is {shown(value)}"
        for path, value in values.unread().items()
        if ROPE & set(path.split(".")[:-1])
    ]
    if found:
        raise UserError(
            f"config.json: {few(found, 3)}, which such a model does not read; remove it if it is "
            "of no account"
        )
