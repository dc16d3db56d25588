"""config.json of decoders, in and out: old and new forms, what is refused; and all presets."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from jaxlm.core.config import UserError
from jaxlm.models.families import families, family_of, family_of_architecture
from jaxlm.models.families.gpt2 import GPT3
from jaxlm.models.families.shared.table import locate
from jaxlm.models.families.shared.values import Values
from jaxlm.nn.ngram_embed import NgramEmbeddingConfig
from tests.models.golden_families import CASES as GOLDEN
from tests.models.parity import abstract_of, architecture_of, decoders, golden, model_of

CASES = decoders()


# Words that say nothing of the model: transformers writes the first of models without a window too,
# the second, the width of a plain ffn, where every layer has experts, and never reads the third.
IDLE = {
    "max_window_layers": CASES,
    "intermediate_size": ["qwen3_moe"],
    "norm_topk_prob": ["deepseek_v2_normalized"],
}


@pytest.mark.parametrize("name", CASES)
def test_configs_old_and_new_say_the_same(name):
    case, family = golden(name), model_of(name).family
    config = family.from_hf(case.config)
    assert family.from_hf(case.published) == config
    assert config.family == family.name
    written = json.loads(json.dumps(family.to_hf(config)))
    assert family.from_hf(written) == config
    assert written["architectures"] == case.config["architectures"]
    idle = {key for key, names in IDLE.items() if name in names}
    for key in written.keys() & case.config.keys() - idle:
        assert written[key] == case.config[key] or case.config[key] is None, key


NOT_SAID = {"gpt3-13b"}  # by a config.json
PRESETS = [(family.name, preset) for family in families() for preset in family.presets]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_have_the_published_number_of_parameters(name, preset):
    family = family_of(name)
    config = family.presets[preset]
    _, abstract, _ = abstract_of(config)
    shapes = {path: leaf.shape for path, leaf in abstract.items()}
    assert sum(map(math.prod, shapes.values())) == family.num_params[preset]
    assert locate(family.tensors(config), shapes).keys() == shapes.keys()
    if preset not in NOT_SAID:
        assert family.from_hf(family.to_hf(config)) == config


def test_gpt3_is_as_large_as_the_paper_says():
    counts = family_of("gpt2").num_params
    assert len(GPT3) == 8
    for name, (*_, paper) in GPT3.items():
        assert counts[name] == pytest.approx(paper, rel=0.02)


def scaled(**values: Any) -> dict[str, Any]:
    return {"rope_scaling": values}


SLIDING = {"layer_types": ["sliding_attention"] * 4, "sliding_window": None}
REFUSED = [
    ("llama_mha", {"hidden_size": None}, "lacks hidden_size; take the file that came with"),
    ("llama_mha", {"hidden_act": "mish"}, "hidden_act is 'mish'; known are silu, gelu, "),
    ("llama_mha", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}; kn"),
    ("llama_mha", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; known is 1.0"),
    ("llama_mha", scaled(rope_type="longrope", factor=4.0), "rope_type is 'longrope'"),
    ("llama_mha", scaled(type="linear"), "the linear scaling lacks factor; add it"),
    ("llama_mha", scaled(type="linear", factor=2.0, mscale=1.0), "mscale is 1.0 in the linear"),
    ("llama_mha", {"rope_interleaved": True}, "rope_interleaved is True; known is False alone"),
    ("llama_rope_dynamic", {"max_position_embeddings": None}, "the dynamic scaling lacks max_pos"),
    ("mistral", {"attention_bias": True}, "attention_bias is True; known is False alone"),
    ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types is "),
    ("qwen2", {"use_mrope": True}, "use_mrope is True; known is False alone"),
    ("qwen2_window", SLIDING, "layers have a window, but sliding_window is absent; add it"),
    ("qwen2_window", {"layer_types": ["full_attention"]}, "layer_types names 1 layers, but there"),
    ("qwen3", {"layer_types": ["chunked_attention"] * 3}, "layer_types is 'chunked_attention'; k"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0; known is None"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"activation_function": "mish"}, "activation_function is 'mish'; known are gelu_ne"),
    ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise is 0.1; known is 0.0 alone"),
    ("qwen3_moe", {"use_sliding_window": True}, "use_sliding_window is True; known is False"),
    ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'; known is 'sigmoid'"),
    ("deepseek_v3", {"topk_method": "greedy"}, "topk_method is 'greedy'; known is 'noaux_tc'"),
    ("deepseek_v3", {"quantization_config": {"bits": 8}}, "quantization_config is {'bits': 8}; "),
    ("deepseek_v3", {"kv_lora_rank": None}, "lacks kv_lora_rank; take the file that came with"),
    ("mixtral", {"hidden_size": 3}, "num_attention_heads is 6, more than hidden_size 3; take th"),
    ("gpt2", {"n_layer": 2**31 - 1}, "n_layer is 2147483647, where a number of layers from 1 to"),
    ("t5", {"tie_word_embeddings": False, "scale_decoder_outputs": True}, "tie_word_embeddings is"),
    ("llama_mha", {"hidden_act": "a" * 5000}, "hidden_act is 'a{20,80}\\.\\.\\.a{20,80}'; known"),
    ("deepseek_v2", {"mlp_bias": True}, "mlp_bias is True; known is False alone"),
    ("gemma2", {"hidden_act": "silu"}, "hidden_act is 'silu', but hidden_activation, which"),
    ("bert", {"add_pooling_layer": False}, "add_pooling_layer is false, but BertForPreTraining"),
    ("t5", {"is_gated_act": True}, "is_gated_act is True; known is False alone"),
    ("t5_v1_1", {"dense_act_fn": "silu"}, "dense_act_fn is 'silu'; known is 'gelu_new' alone"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_cannot_be_said_here_is_refused(name, changes, message):
    with pytest.raises(UserError, match=f"^config.json: {message}"):
        model_of(name).family.from_hf({**golden(name).published, **changes})


def positions(**values: Any) -> dict[str, Any]:
    return {"rope_scaling": None, "rope_theta": None, "rope_parameters": values}


TRAINED = {"original_max_position_embeddings": 64}
FAR = {"rope_type": "linear", "factor": 8.0}
LONGER = {
    "rope_type": "llama3",
    "factor": 8.0,
    **TRAINED,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
POSITIONS = [
    ("glm4", positions(factor=8.0), "rope_parameters.factor is 8.0, which such a model does not"),
    ("glm4", positions(type="yarn"), "type is 'yarn'; known are default"),
    ("gemma3", positions(**FAR), "rope_parameters.factor is 8.0, rope_parameters.rope_type is 'li"),
    ("gemma3", positions(global_attention=FAR), "rope_parameters.global_attention is {"),
    ("gemma3", positions(full_attention={**FAR, "beta_fast": 2.0}), "beta_fast is 2.0 in the lin"),
    ("gemma3", positions(sliding_attention={"scale": 0}), "scale is 0 in the default scaling"),
    ("gemma3", {"rope_parameters": {"full_attention": FAR}}, "rope_scaling and rope_parameters.f"),
    ("gemma3", positions(sliding_attention={"rope_theta": 5.0}), "rope_local_base_freq is 100.0, "),
    ("qwen2", positions(rope_type=""), "rope_type is ''; choose one of"),
    ("llama_mha", positions(factor=8.0), "factor is 8.0 in the default scaling"),
    ("llama_mha", scaled(type="yarn", rope_type="linear", factor=2.0), "type is 'yarn', but rope_"),
    ("llama_mha", scaled(type="yarn", factor=2.0, mscale=0.7), "rope_scaling.mscale is 0.7, whic"),
    ("llama_mha", {"rope_theta": 5.0, **scaled(rope_theta=6.0)}, "rope_theta is 5.0, but rope_th"),
    ("llama_rope_yarn", {"rope_parameters": {"rope_theta": 5.0}}, "rope_scaling and rope_paramet"),
    ("llama_rope_yarn", {"original_max_position_embeddings": 32}, "original_max_position_embeddin"),
    ("qwen3", scaled(**LONGER, mrope_section=[1]), "mrope_section is .1. in the llama3 scaling"),
    ("smollm3", scaled(**FAR, mscale=1.0), "mscale is 1.0 in the linear scaling"),
    ("deepseek_v3_plain", scaled(**FAR, mscale_all_dim=1.0), "mscale_all_dim is 1.0 in the linea"),
]


@pytest.mark.parametrize(("name", "changes", "message"), POSITIONS)
def test_no_key_of_the_positions_is_ignored(name, changes, message):
    with pytest.raises(UserError, match=f"^config.json: {message}"):
        model_of(name).family.from_hf({**golden(name).published, **changes})


LAYERS = [
    ("qwen2_window", {"max_window_layers": None}, "max_window_layers is null, but layers from it"),
    ("qwen2_window", {"layer_types": ["full_attention"] * 5}, "layer_types names 5 layers, but"),
    ("gemma2", {"layer_types": []}, "layer_types names 0 layers, but there are 4; take the file"),
    ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer_types names 7 layers, but there ar"),
    ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers names 2 layers, but there are 4; tak"),
    ("smollm3", {"no_rope_layers": [1] * 5}, "no_rope_layers names 5 layers, but there are 4"),
    ("smollm3", {"no_rope_layers": [1, 2, 1, 0]}, "no_rope_layers has 2, where 0 and 1 are expec"),
    ("smollm3", {"layer_types": ["full_attention"]}, "layer_types names 1 layers, but there are 4"),
    ("qwen3_moe_dense_layer", {"mlp_only_layers": [3]}, "mlp_only_layers names layer 3, but ther"),
    ("qwen3_moe_dense_layer", {"mlp_only_layers": [-1]}, "mlp_only_layers names layer -1, but th"),
]


@pytest.mark.parametrize(("name", "changes", "message"), LAYERS)
def test_a_list_of_layers_names_those_that_there_are(name, changes, message):
    with pytest.raises(UserError, match=f"^config.json: {message}"):
        model_of(name).family.from_hf({**golden(name).published, **changes})


@pytest.mark.parametrize("name", GOLDEN)
def test_every_key_of_a_file_is_read_or_known_to_shape_nothing(name):
    family = family_of_architecture(architecture_of(name))
    for values in (golden(name).config, golden(name).published):
        read = Values({"logit_scale": 0.5, "other": False, "another": None, **values})
        family.from_hf(read)
        never = {"norm_topk_prob": True} if name == "deepseek_v2_normalized" else {}
        assert read.unread(family.idle) == {"logit_scale": 0.5, **never}


def test_defaults_and_replacements_keep_what_was_read():
    file = Values({"a": 1, "b": {"c": 2, "d": 3}, "e": 4})
    read = {"a": 0, "f": 5} | file | {"e": 6}
    assert [read[key] for key in ("a", "f", "e")] == [1, 5, 6]
    assert (read["b"] | {"x": 0})["c"] == 2 and "d" in read["b"]
    assert file.unread() == {"b.d": 3, "e": 4}


NEEDED = [
    ("gpt2", "n_embd"),
    ("bert", "hidden_size"),
    ("t5", "d_model"),
    ("chatglm3", "kv_channels"),
]


@pytest.mark.parametrize(("name", "key"), NEEDED)
def test_a_file_without_a_needed_key_is_refused(name, key):
    values = {k: v for k, v in golden(name).published.items() if k != key}
    family = family_of_architecture(architecture_of(name))
    with pytest.raises(UserError, match=f"^config.json: lacks {key}; take the file that came"):
        family.from_hf(values)


STRANGE = [
    ("roberta", {"pad_token_id": None}),
    ("bert", {"max_position_embeddings": None}),
    ("llama_mha", {"hidden_size": "36", "head_dim": None}),
    ("llama_mha", {"num_attention_heads": 0, "head_dim": None}),
    ("smollm3", {"no_rope_layers": [1, 0], "num_hidden_layers": 4}),
    ("qwen3_moe", {"decoder_sparse_step": 0}),
    ("llama_mha", {"hidden_act": ["silu"]}),
]


@pytest.mark.parametrize(("name", "changes"), STRANGE)
def test_a_value_that_no_model_has_is_one_line(name, changes):
    family = family_of_architecture(architecture_of(name))
    with pytest.raises(UserError, match="^config.json: .*; take the file that came with the model"):
        family.from_hf({**golden(name).published, **changes})


WRONG = ["big", 0, -1, 1.5, True, None, [5], [None], {"a": 1}, float("nan"), 10**40]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_wrong_value_of_any_key_is_one_line_that_names_it(name):
    """Every key of every family's file; what is not refused is read, or is not of the shape."""
    case = golden(name)
    family = family_of_architecture(case.config["architectures"][0])
    for values in (case.config, case.published):
        for key in values:
            for wrong in WRONG:
                try:
                    family.from_hf(
                        {"architectures": case.config["architectures"], **values, key: wrong}
                    )
                except UserError as error:
                    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rope_theta", "big", "rope_theta is 'big', where a number above 0 is expected"),
        ("rope_theta", 0, "rope_theta is 0, where a number above 0"),
        ("head_dim", 0, "head_dim is 0, where a whole number from 1 on"),
        ("num_key_value_heads", 0, "num_key_value_heads is 0"),
        ("tie_word_embeddings", "no", "tie_word_embeddings is 'no', where true or false"),
        ("rms_norm_eps", None, "lacks rms_norm_eps"),
        ("rope_scaling", [1], "rope_scaling is .1., where an object"),
        ("rope_scaling", {"type": "linear", "factor": "4"}, "rope_scaling.factor is '4'"),
        ("rope_scaling", {"mrope_section": [1]}, "mrope_section is .1. in the default scaling"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_never_replaced(key, value, says):
    with pytest.raises(UserError, match=f"^config.json: {says}"):
        family_of("llama").from_hf({**golden("llama_mha").published, key: value})


@pytest.mark.parametrize(("name", "theta"), [("glm4", 10_000.0), ("gemma3", 1_000_000.0)])
def test_a_null_base_of_the_angles_is_that_of_the_class(name, theta):
    values = {**golden(name).published, "rope_theta": None, "rope_parameters": None}
    family = family_of_architecture(architecture_of(name))
    assert theta in {position.theta for position in family.from_hf(values).position}


def test_v2s_weights_of_experts_are_never_normalised_as_transformers_does():
    family, values = family_of("deepseek_v2"), golden("deepseek_v2").published
    config = family.from_hf({**values, "norm_topk_prob": True})
    assert config == family.from_hf({**values, "norm_topk_prob": False})
    with pytest.raises(UserError, match="^model.ffn.normalize: True has no place"):
        family.to_hf(config.replace(ffn=config.ffn.replace(normalize=True)))
    v3, values = family_of("deepseek_v3"), golden("deepseek_v3").published
    for says in (True, False):  # which V3 reads
        assert v3.from_hf({**values, "norm_topk_prob": says}).ffn.normalize is says


def test_a_mixtral_turns_as_its_class_does_where_its_file_does_not_say():
    values = {k: v for k, v in golden("mixtral").published.items() if not k.startswith("rope_")}
    assert family_of("mixtral").from_hf(values).position[0].theta == 1_000_000.0


def changed(preset: str, part: str = "attention", **changes: Any) -> Any:
    config: Any = [f.presets[preset] for f in families() if preset in f.presets][0]
    return config.replace(**{part: getattr(config, part).replace(**changes)})


HOMELESS = [
    ("llama-3-8b", "attention", {"softcap": 5.0}, "5.0 has no place in the config.json of Llama"),
    ("llama-3-8b", "attention", {"qk_norm": True}, "True has no place"),
    ("llama-3-8b", "attention", {"window": (8,)}, ".8.* has no place"),
    ("llama-3-8b", "attention", {"is_causal": False}, "False has no place"),
    ("llama-3-8b", "ffn", {"activation": "relu"}, "'relu' has no place"),
    ("llama-3-8b", "head", {"bias": True}, "True has no place"),
    ("llama-3-8b", "norm", {"one_plus": True}, "True has no place"),
    ("qwen3-8b", "attention", {"qk_norm": False}, "False has no place"),
    ("qwen2.5-7b", "attention", {"out_bias": True}, "True has no place"),
    ("mistral-7b-v0.3", "attention", {"window": (8, 4)}, ".4, 8. are several windows"),
    ("gemma-2-2b", "embedding", {"scale": 1.0}, "1.0 has no place"),
    ("gemma-2-2b", "embedding", {"ngrams": NgramEmbeddingConfig()}, "what it sets has no place"),
    ("gemma-2-2b", "attention", {"scale": 0.0619}, "0.0619 has no place"),
    ("gpt2", "attention", {"qk_norm": True}, "True has no place"),
    ("gpt2", "attention", {"head_dim": 32}, "32 has no place"),
    ("gpt2", "ffn", {"activation": "swiglu"}, "'swiglu' has no place"),
    ("gpt3-13b", "attention", {"head_dim": 128}, "128 has no place"),
    ("mixtral-8x7b", "ffn", {"shared_size": 64}, "64 has no place"),
    ("mixtral-8x7b", "ffn", {"scores": "sigmoid"}, "'sigmoid' has no place"),
    ("qwen3-30b-a3b", "ffn", {"choice_bias": 0.1}, "0.1 has no place"),
    ("deepseek-v3", "ffn", {"shared_size": 2049}, "2049 has no place"),
    ("deepseek-v3", "ffn", {"scores": "softmax"}, "'softmax' has no place"),
    ("deepseek-v3", "attention", {"softcap": 5.0}, "5.0 has no place"),
    ("deepseek-v3", "attention", {"scale": 0.2}, "0.2 has no place"),
    ("deepseek-v2-lite", "ffn", {"num_groups": 2}, "2 has no place"),
]


@pytest.mark.parametrize(("preset", "part", "changes", "message"), HOMELESS)
def test_what_has_no_place_in_a_file_is_refused(preset, part, changes, message):
    config = changed(preset, part, **changes)
    (field,) = changes
    with pytest.raises(UserError, match=f"^model.{part}.{field}.*: {message}"):
        family_of(config.family).to_hf(config)


def test_what_a_run_alone_decides_is_not_in_the_file():
    config = changed("qwen3-8b", dropout=0.1, impl="reference", window=(None, None))
    config = config.replace(dropout=0.1, dtype="float32", remat="full", initializer_range=None)
    family = family_of("qwen3")
    assert family.from_hf(family.to_hf(config)) == family.presets["qwen3-8b"]


def test_a_run_decides_for_itself_how_its_router_is_trained():
    config = changed("deepseek-v3", "ffn", router_z_loss=0.1, capacity_factor=2.0, choice_bias=0.5)
    family = family_of("deepseek_v3")
    assert family.from_hf(family.to_hf(config)) == family.presets["deepseek-v3"]


SCALINGS = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "llama3", "factor": 3.0, **TRAINED, "low_freq_factor": 2.0},
    {"rope_type": "yarn", "factor": 3.0, **TRAINED, "truncate": False, "attention_factor": 1.5},
    {"rope_type": "yarn", **TRAINED},  # 512 positions of 64 are a factor of 8
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_a_scaling_of_positions_reads_back_from_both_forms(scaling):
    family, values = family_of("llama"), golden("llama_mha").published
    config = family.from_hf({**values, "rope_scaling": scaling})
    newer = {"rope_parameters": {"rope_theta": 10_000.0, **scaling}}
    assert family.from_hf({**values, "rope_theta": None, **newer}) == config
    assert family.from_hf(family.to_hf(config)) == config
    assert config.position[0].scaling.factor == scaling.get("factor", 8.0)


def test_mscales_are_another_way_to_say_a_factor():
    scaling = {"type": "yarn", "factor": 40.0, **TRAINED, "mscale": 0.7, "mscale_all_dim": 2.0}
    config = family_of("llama").from_hf({**golden("llama_mha").published, "rope_scaling": scaling})
    want = (0.07 * math.log(40) + 1) / (0.2 * math.log(40) + 1)
    assert config.position[0].scaling.attention_factor == pytest.approx(want, rel=1e-12)


def test_of_a_gemma_that_sees_images_the_text_is_read():
    images = family_of_architecture("Gemma3ForConditionalGeneration")
    text = {"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    config = images.from_hf({"text_config": text, "vision_config": {"hidden_size": 1152}})
    assert config == family_of("gemma3").presets["gemma-3-4b"]
    assert images.to_hf(config)["architectures"] == ["Gemma3ForCausalLM"]
    names = [row.name for row in images.tensors(config)]
    assert names == [f"language_model.{r.name}" for r in family_of("gemma3").tensors(config)]
    tower = "vision_tower.vision_model.embeddings.patch_embedding.bias"
    assert any(re.search(pattern, tower) for pattern in images.ignored)
