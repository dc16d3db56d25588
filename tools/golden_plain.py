"""Models that transformers has no class for, in torch: GLM, after arXiv:2103.10360, and ChatGLM,
after the code that is published with its checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from tests.models import golden_families as golden


class Plain(PreTrainedModel, GenerationMixin):
    """A model that is a function of its parameters, which have their names in published files."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        for name, (shape, base) in self.tensors(config).items():
            *path, leaf = name.split(".")
            module: torch.nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, torch.nn.Parameter(torch.full(shape, base)))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        pass


class ChatGLMConfig(PreTrainedConfig):
    model_type = "chatglm"
    attribute_map = {"vocab_size": "padded_vocab_size", "num_hidden_layers": "num_layers"}


class ChatGLMModel(Plain):
    """ChatGLM2 and 3: grouped queries, SwiGLU, and RoPE on half of each head, in adjacent pairs."""

    config_class = ChatGLMConfig

    @staticmethod
    def tensors(config: PreTrainedConfig) -> golden.Tensors:
        hidden, heads = config.hidden_size, config.num_attention_heads
        mixed = (heads + 2 * config.multi_query_group_num) * config.kv_channels
        layer = {
            "input_layernorm.weight": ((hidden,), 1.0),
            "self_attention.query_key_value.weight": ((mixed, hidden), 0.0),
            "self_attention.query_key_value.bias": ((mixed,), 0.0),
            "self_attention.dense.weight": ((hidden, heads * config.kv_channels), 0.0),
            "post_attention_layernorm.weight": ((hidden,), 1.0),
            "mlp.dense_h_to_4h.weight": ((2 * config.ffn_hidden_size, hidden), 0.0),
            "mlp.dense_4h_to_h.weight": ((hidden, config.ffn_hidden_size), 0.0),
        }
        return {
            "transformer.embedding.word_embeddings.weight": ((config.vocab_size, hidden), 0.0),
            **layers("transformer.encoder.layers", config.num_layers, layer),
            "transformer.encoder.final_layernorm.weight": ((hidden,), 1.0),
            "transformer.output_layer.weight": ((config.vocab_size, hidden), 0.0),
        }

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        config, p = self.config, dict(self.named_parameters())
        size, heads = config.kv_channels, config.num_attention_heads
        groups, length = config.multi_query_group_num, input_ids.shape[1]
        sizes = [heads * size, groups * size, groups * size]
        seen = torch.ones(length, length).tril().bool()

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.rms_norm(x, x.shape[-1:], p[f"{name}.weight"], config.layernorm_epsilon)

        x = p["transformer.embedding.word_embeddings.weight"][input_ids]
        states = [x]
        for i in range(config.num_layers):
            at = f"transformer.encoder.layers.{i}"
            mixed = norm(x, f"{at}.input_layernorm")
            mixed = linear(mixed, p, f"{at}.self_attention.query_key_value")
            q, k, v = (part.unflatten(-1, (-1, size)) for part in mixed.split(sizes, dim=-1))
            k, v = (part.repeat_interleave(heads // groups, dim=2) for part in (rotated(k), v))
            x = x + linear(attend(rotated(q), k, v, seen), p, f"{at}.self_attention.dense")
            gate, up = linear(
                norm(x, f"{at}.post_attention_layernorm"), p, f"{at}.mlp.dense_h_to_4h"
            ).chunk(2, dim=-1)
            x = x + linear(F.silu(gate) * up, p, f"{at}.mlp.dense_4h_to_h")
            states.append(x)
        x = norm(x, "transformer.encoder.final_layernorm")
        return CausalLMOutput(
            logits=linear(x, p, "transformer.output_layer"), hidden_states=tuple(states)
        )


class GLMConfig(PreTrainedConfig):
    model_type = "glm"


class GLMModel(Plain):
    """GLM: GPT-2's layers, two learned positions a token, and a text that sees all of itself.

    Its GELU is the tanh form that it was trained with; the code published with its checkpoints has
    the exact one.
    """

    config_class = GLMConfig

    @staticmethod
    def tensors(config: PreTrainedConfig) -> golden.Tensors:
        hidden, places = config.hidden_size, config.max_sequence_length + 1
        layer = {
            **normed("input_layernorm", hidden),
            **dense("attention.query_key_value", hidden, 3 * hidden),
            **dense("attention.dense", hidden, hidden),
            **normed("post_attention_layernorm", hidden),
            **dense("mlp.dense_h_to_4h", hidden, 4 * hidden),
            **dense("mlp.dense_4h_to_h", 4 * hidden, hidden),
        }
        return {
            "word_embeddings.weight": ((config.vocab_size, hidden), 0.0),
            "transformer.position_embeddings.weight": ((places, hidden), 0.0),
            "transformer.block_position_embeddings.weight": ((places, hidden), 0.0),
            **layers("transformer.layers", config.num_layers, layer),
            **normed("transformer.final_layernorm", hidden),
        }

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, context: int
    ) -> CausalLMOutput:
        config, p = self.config, dict(self.named_parameters())
        length = tokens.shape[1]
        seen = torch.ones(length, length).tril().bool()
        seen[:, :context] = True

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)

        x = p["word_embeddings.weight"][tokens]
        x = x + p["transformer.position_embeddings.weight"][positions[:, 0]]
        x = x + p["transformer.block_position_embeddings.weight"][positions[:, 1]]
        states = [x]
        for i in range(config.num_layers):
            at = f"transformer.layers.{i}"
            mixed = linear(norm(x, f"{at}.input_layernorm"), p, f"{at}.attention.query_key_value")
            q, k, v = mixed.unflatten(-1, (3, config.num_attention_heads, -1)).unbind(2)
            x = x + linear(attend(q, k, v, seen), p, f"{at}.attention.dense")
            y = linear(norm(x, f"{at}.post_attention_layernorm"), p, f"{at}.mlp.dense_h_to_4h")
            x = x + linear(F.gelu(y, approximate="tanh"), p, f"{at}.mlp.dense_4h_to_h")
            states.append(x)
        x = norm(x, "transformer.final_layernorm")
        return CausalLMOutput(logits=x @ p["word_embeddings.weight"].T, hidden_states=tuple(states))


PLAIN = {cls.__name__: cls for cls in (ChatGLMModel, GLMModel)}


def layers(prefix: str, count: int, layer: golden.Tensors) -> golden.Tensors:
    return {f"{prefix}.{i}.{name}": like for i in range(count) for name, like in layer.items()}


def dense(name: str, inputs: int, outputs: int) -> golden.Tensors:
    return {f"{name}.weight": ((outputs, inputs), 0.0), f"{name}.bias": ((outputs,), 0.0)}


def normed(name: str, size: int) -> golden.Tensors:
    return {f"{name}.weight": ((size,), 1.0), f"{name}.bias": ((size,), 0.0)}


def linear(x: torch.Tensor, p: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """[B, T, N, H] each, and which keys a query sees [T, T] -> [B, T, N*H]."""
    scores = torch.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return torch.einsum("bnts,bsnh->btnh", weights, v).flatten(2)


def rotated(x: torch.Tensor) -> torch.Tensor:
    """The first half of each head [B, T, N, H] by RoPE: adjacent pairs as complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[1]), 10000.0 ** (-torch.arange(0, half, 2) / half))
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    pairs = torch.view_as_complex(x[..., :half].unflatten(-1, (-1, 2)).contiguous())
    return torch.cat([torch.view_as_real(pairs * turns).flatten(-2), x[..., half:]], dim=-1)
