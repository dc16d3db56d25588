"""BERT (Devlin et al. 2018, arXiv:1810.04805) and RoBERTa (Liu et al. 2019, arXiv:1907.11692).

An encoder: every token attends to all of its text. LayerNorm after each sum and after the
embeddings, learned positions, GELU, biases everywhere. RoBERTa is the same with one token type,
positions that begin after the padding's row of the table, and other names in the head.

Which heads a file has is said by the class in its config.json alone:

    BertForPreTraining          transform and bias over the vocabulary, pooler, two relations
    BertForMaskedLM             transform and bias over the vocabulary
    BertForNextSentencePrediction                  pooler, two relations
    BertModel                   pooler, unless config.json has "add_pooling_layer": false

The published files say BertForMaskedLM or RobertaForMaskedLM, but also hold a pooler and BERT's two
relations. The model has every head that the file has (`completed`), and a config.json written here
then has "add_pooling_layer": true. Their LayerNorms have a gamma and a beta.

A head that is not in the file is not in the model: without a transform the logits are the products
with the embeddings, which needs no further parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from jaxlm.core.errors import UserError, shown
from jaxlm.models.families.base import Family
from jaxlm.models.families.gpt2 import ACTIVATIONS
from jaxlm.models.families.shared.checks import demand
from jaxlm.models.families.shared.head_classes import TaskClass, linear
from jaxlm.models.families.shared.kinds import is_count
from jaxlm.models.families.shared.tensor import Tensor, one_of, part_of
from jaxlm.models.transformer import EmbeddingConfig, HeadConfig, TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ffn import Activation, DenseConfig
from jaxlm.nn.heads.base import NAME
from jaxlm.nn.heads.classify import Classify
from jaxlm.nn.heads.span import Span
from jaxlm.nn.heads.tag import Tag
from jaxlm.nn.norm import LayerNormConfig
from jaxlm.nn.position import LearnedConfig

FIXED = {  # what config.json may say, and these models are
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
OLDER = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
BERT_HEAD = HeadConfig(bias=True, transform="gelu", pooler=True, num_relations=2)
ROBERTA_HEAD = HeadConfig(bias=True, transform="gelu")


def bert(hidden_size: int, num_layers: int, num_heads: int, vocab_size: int) -> TransformerConfig:
    return TransformerConfig(
        hidden_size=hidden_size,
        num_layers=num_layers,
        attention=MultiHeadConfig(num_heads=num_heads, bias=True, out_bias=True, is_causal=False),
        ffn=DenseConfig(intermediate_size=4 * hidden_size, activation="gelu", bias=True),
        norm=LayerNormConfig(eps=1e-12),
        norm_placement="post",
        position=(LearnedConfig(max_seq_len=512),),
        embedding=EmbeddingConfig(norm=True, token_types=2),
        head=BERT_HEAD,
        vocab_size=vocab_size,
        family="bert",
    )


def roberta(hidden_size: int, num_layers: int, num_heads: int) -> TransformerConfig:
    return bert(hidden_size, num_layers, num_heads, 50_265).replace(
        norm=LayerNormConfig(eps=1e-5),
        position=(LearnedConfig(max_seq_len=512, offset=2),),
        embedding=EmbeddingConfig(norm=True, token_types=1),
        head=ROBERTA_HEAD,
        family="roberta",
    )


def heads(family: str, activation: Activation) -> dict[str, HeadConfig]:
    """The heads of each class of Hugging Face transformers."""
    if family == "roberta":
        return {"RobertaForMaskedLM": ROBERTA_HEAD, "RobertaModel": HeadConfig(pooler=True)}
    return {
        "BertForPreTraining": BERT_HEAD.replace(transform=activation),
        "BertForMaskedLM": HeadConfig(bias=True, transform=activation),
        "BertForNextSentencePrediction": HeadConfig(pooler=True, num_relations=2),
        "BertModel": HeadConfig(pooler=True),
    }


def from_hf(family: str, values: Mapping[str, Any]) -> TransformerConfig:
    for key, value in FIXED.items():
        one_of(values, key, {value: value}, value)
    activation = one_of(values, "hidden_act", ACTIVATIONS, "gelu")
    (architecture, *_) = values.get("architectures") or [None]
    known = heads(family, activation)
    head: HeadConfig = one_of({"architectures": architecture}, "architectures", known, None)
    pooler = values.get("add_pooling_layer", head.pooler)
    if head.num_relations and not pooler:
        raise UserError(
            f"config.json: add_pooling_layer is false, but {architecture} has a pooler; remove it"
        )
    head = head.replace(pooler=pooler)
    demand(values, ("max_position_embeddings",))
    padding = values.get("pad_token_id", 1)
    if family == "roberta" and not is_count(padding, 0):
        raise UserError(
            f"config.json: pad_token_id is {shown(padding)}, where a whole number is expected, as "
            "positions begin after it; take the file that came with the model"
        )
    offset = padding + 1 if family == "roberta" else 0
    return TransformerConfig(
        hidden_size=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        attention=MultiHeadConfig(
            num_heads=values["num_attention_heads"], bias=True, out_bias=True, is_causal=False
        ),
        ffn=DenseConfig(
            intermediate_size=values["intermediate_size"], activation=activation, bias=True
        ),
        norm=LayerNormConfig(eps=values.get("layer_norm_eps", 1e-12)),
        norm_placement="post",
        position=(
            LearnedConfig(max_seq_len=values["max_position_embeddings"] - offset, offset=offset),
        ),
        embedding=EmbeddingConfig(norm=True, token_types=values.get("type_vocab_size", 2)),
        head=head,
        vocab_size=values["vocab_size"],
        family=family,
    )


def to_hf(family: str, config: TransformerConfig) -> dict[str, Any]:
    c, names = config, {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    ffn = part_of(c.ffn, DenseConfig, "ffn")
    position = part_of(c.position[0], LearnedConfig, "position")
    known = {
        name
        for name, head in heads(family, ffn.activation).items()
        if c.head == (head if head.num_relations else head.replace(pooler=c.head.pooler))
    }
    if not known:
        raise UserError(
            f"model.head: no class of {family} has these heads; choose those of "
            f"{', '.join(heads(family, ffn.activation))}"
        )
    # If positions begin after the padding's id, the id shapes the model; else the tokenizer has it.
    padding = {"pad_token_id": position.offset - 1} if position.offset else {}
    return {
        **padding,
        "architectures": sorted(known),
        "model_type": family,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.attention.num_heads,
        "intermediate_size": ffn.width(c.hidden_size),
        "hidden_act": names[ffn.activation],
        "max_position_embeddings": position.max_seq_len + position.offset,
        "type_vocab_size": c.embedding.token_types,
        "layer_norm_eps": part_of(c.norm, LayerNormConfig, "norm").eps,
        "add_pooling_layer": c.head.pooler,
        "tie_word_embeddings": True,
        "position_embedding_type": "absolute",
    }


def completed(config: TransformerConfig, names: Collection[str]) -> TransformerConfig:
    """The config with the pooler and the relations, if the file has their tensors."""
    head = config.head
    if head.transform is None or head.num_relations:
        return config
    pooler, relations = (
        any(name.endswith(end) for name in names)
        for end in ("pooler.dense.weight", "cls.seq_relationship.weight")
    )
    return config.replace(head=head.replace(pooler=pooler, num_relations=2 * relations))


def tensors(family: str, config: TransformerConfig) -> list[Tensor]:
    c = config
    root = "" if c.head.transform is None and not c.head.num_relations else f"{family}."
    layer = root + "encoder.layer.{layer}."
    head = "lm_head" if family == "roberta" else "cls.predictions"
    transform = head if family == "roberta" else f"{head}.transform"
    rows = [
        Tensor(f"{root}embeddings.word_embeddings.weight", "embed/table", "V D -> V D"),
        Tensor(f"{root}embeddings.position_embeddings.weight", "position/table", "P D -> P D"),
        Tensor(f"{root}embeddings.token_type_embeddings.weight", "token_types/table", "C D -> C D"),
        Tensor(f"{head}.bias", "unembed/bias", "V -> V"),
    ]
    if c.head.transform is not None:  # the same once more, as a layer
        there = f"{head}.decoder"
        rows.append(Tensor(f"{there}.weight", "embed/table", "V D -> V D", optional=True))
        rows.append(Tensor(f"{there}.bias", "unembed/bias", "V -> V", optional=True))
    for name in ("query", "key", "value"):
        there, here = f"{layer}attention.self.{name}", f"layers/attention/{name}"
        rows.append(Tensor(f"{there}.weight", f"{here}/kernel", "(N H) D -> D N H"))
        rows.append(Tensor(f"{there}.bias", f"{here}/bias", "(N H) -> N H"))
    out = (f"{layer}attention.output.dense", "layers/attention/out")
    rows.append(Tensor(f"{out[0]}.weight", f"{out[1]}/kernel", "D (N H) -> N H D"))
    rows.append(Tensor(f"{out[0]}.bias", f"{out[1]}/bias", "D -> D"))
    for name, path in {
        f"{layer}intermediate.dense": "layers/ffn/up",
        f"{layer}output.dense": "layers/ffn/down",
        f"{transform}.dense": "unembed/transform",
        f"{root}pooler.dense": "pooler/dense",
        "cls.seq_relationship": "pooler/relation",
    }.items():
        rows.append(Tensor(f"{name}.weight", f"{path}/kernel", "O I -> I O"))
        rows.append(Tensor(f"{name}.bias", f"{path}/bias", "O -> O"))
    for name, path in {
        f"{root}embeddings.LayerNorm": "embedding_norm",
        f"{layer}attention.output.LayerNorm": "layers/attention_norm",
        f"{layer}output.LayerNorm": "layers/ffn_norm",
        f"{transform}.{'layer_norm' if family == 'roberta' else 'LayerNorm'}": "unembed/norm",
    }.items():
        rows.append(Tensor(f"{name}.weight", f"{path}/scale", "D -> D"))
        rows.append(Tensor(f"{name}.bias", f"{path}/bias", "D -> D"))
    return rows


PLAIN: dict[str, Any] = {"values": {"add_pooling_layer": False}, "names": "+"}
TASKS = (
    TaskClass(
        "BertForSequenceClassification",
        "BertModel",
        Classify(pool="pooler"),
        linear("classifier"),
        values={"add_pooling_layer": True},
        names="+",
    ),
    TaskClass(  # the pooler as a part of the head
        "BertForSequenceClassification",
        "BertModel",
        Classify(pool="first", dense="tanh"),
        (*linear("bert.pooler.dense", f"{NAME}/dense"), *linear("classifier")),
        **PLAIN,
    ),
    TaskClass("BertForTokenClassification", "BertModel", Tag(), linear("classifier"), **PLAIN),
    TaskClass("BertForQuestionAnswering", "BertModel", Span(), linear("qa_outputs"), **PLAIN),
)
ROBERTA_TASKS = (
    TaskClass(
        "RobertaForSequenceClassification",
        "RobertaModel",
        Classify(pool="first", dense="tanh"),
        (*linear("classifier.dense", f"{NAME}/dense"), *linear("classifier.out_proj")),
        **PLAIN,
    ),
    TaskClass(
        "RobertaForTokenClassification", "RobertaModel", Tag(), linear("classifier"), **PLAIN
    ),
    TaskClass("RobertaForQuestionAnswering", "RobertaModel", Span(), linear("qa_outputs"), **PLAIN),
)

FAMILY = Family(
    name="bert",
    architectures=tuple(heads("bert", "gelu")),
    tasks=TASKS,
    from_hf=partial(from_hf, "bert"),
    to_hf=partial(to_hf, "bert"),
    tensors=partial(tensors, "bert"),
    prefix="bert.",
    older=OLDER,
    completed=completed,
    presets={
        "bert-base-uncased": bert(768, 12, 12, 30_522),
        "bert-base-cased": bert(768, 12, 12, 28_996),
        "bert-base-chinese": bert(768, 12, 12, 21_128),
        "bert-large-uncased": bert(1024, 24, 16, 30_522),
        "bert-large-cased": bert(1024, 24, 16, 28_996),
    },
    num_params={
        "bert-base-uncased": 110_106_428,
        "bert-base-cased": 108_932_934,
        "bert-base-chinese": 102_882_442,
        "bert-large-uncased": 336_226_108,
        "bert-large-cased": 334_661_958,
    },
)
ROBERTA = Family(
    name="roberta",
    architectures=tuple(heads("roberta", "gelu")),
    tasks=ROBERTA_TASKS,
    from_hf=partial(from_hf, "roberta"),
    to_hf=partial(to_hf, "roberta"),
    tensors=partial(tensors, "roberta"),
    prefix="roberta.",
    older=OLDER,
    completed=completed,
    presets={"roberta-base": roberta(768, 12, 12), "roberta-large": roberta(1024, 24, 16)},
    num_params={"roberta-base": 124_697_433, "roberta-large": 355_412_057},
)
