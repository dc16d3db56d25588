"""The memory of a step without its state, in closed form: gradients, activations, temporaries.

With t tokens of one micro-batch on a device:

    gradients        4 bytes a trained parameter, split as the optimizer's state is
    cast weights     the compute dtype's copy of the parameters that a loop over layers reads
    kept             t (hidden + what the remat policy keeps), of each layer
    one layer        the peak of its backward pass: two gathered layers, gradients of tensors
    head             a chunk of float32 logits with its gradient, the whole kernel and its gradient;
                     where devices along fsdp share the vocabulary, their part of these, and the
                     chunk's hidden states of all of them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jaxlm.kernels.head_loss import CHUNK
from jaxlm.plan.closed_form.facts import Facts
from jaxlm.plan.closed_form.scores import Scores
from jaxlm.plan.closed_form.setting import Setting
from jaxlm.plan.closed_form.stacks import Layers, Stack, token_part, ways
from jaxlm.plan.memory import MemoryUse

# Arrays of the experts' rows if experts are on other devices: the rows and three gradients of them,
# the outputs of gate and up, and the input of the last product.
ROOMS = 4
ATTENTION = ("query", "key", "value", "attention")
UNNAMED = 4  # tensors as wide as the stream that a layer without remat keeps: norms, sums


def activation_parts(
    facts: Facts,
    setting: Setting,
    scores: Mapping[str, Sequence[Scores]],
    *,
    splits_vocabulary: bool,
) -> Iterator[MemoryUse]:
    """Everything on a device but parameters and optimizer state; `scores` by a stack's path.

    `splits_vocabulary`: whether the head's loss splits the vocabulary over fsdp.
    """
    mesh, pipeline = setting.mesh, setting.along("stage") > 1
    looped = [a for a in facts.params if a.layered and a.path.endswith("kernel")]
    without = ("fsdp",) if setting.zero == 1 else ()
    cast = sum(a.part(mesh, without=without) for a in looped) * facts.itemsize
    yield MemoryUse(kind="parameters, cast or gathered", module="layers", num_bytes=cast)
    layer = 0.0
    for stack in facts.stacks:
        tokens = setting.stack_tokens(stack)
        micro = tokens / setting.accumulation
        held_tokens = tokens * setting.layer_share if pipeline else micro
        for layers in stack.layers:
            yield from _kept(facts, setting, stack, held_tokens, layers)
        found = scores[stack.path]
        if held := sum(s.kept_bytes * held_tokens * s.layers for s in found):
            yield MemoryUse(kind="saved for backward", module="attention's scores", num_bytes=held)
        working = sum(s.working_bytes for s in found) * micro
        layer = max(layer, _one_layer(facts, setting, stack, micro) + working)
    sums = 4 * sum(a.part(mesh) for a in facts.trained)
    tokens = setting.tokens(facts.seq_len)
    head_tokens = tokens / (setting.along("stage") if pipeline else setting.accumulation)
    sharing = setting.along("fsdp") if splits_vocabulary else 1
    head = _head(facts, setting, head_tokens, sharing)
    if (
        setting.accumulation > 1 and not pipeline
    ):  # the sums over earlier micro-batches are live all the time
        yield MemoryUse(kind="gradients", module="sums", num_bytes=sums)
    if head > layer + sums:  # the head's loss comes first, and is over when the layers begin
        yield MemoryUse(kind="temporaries", module="head", num_bytes=head)
    else:
        yield MemoryUse(kind="gradients", module="", num_bytes=sums)
        yield MemoryUse(kind="temporaries", module="one layer", num_bytes=layer)
    yield MemoryUse(kind="batch", module="", num_bytes=facts.row_bytes * tokens / facts.seq_len)
    yield MemoryUse(kind="program", module="", num_bytes=50e6)


def kept_per_token(
    names: frozenset[str], layers: Layers, mesh: Mapping[str, int], itemsize: int
) -> float:
    """Elements of a token that one layer keeps under these names.

    The attention kernel saves its output and its sums (float32) under the name of its output, which
    is therefore saved twice.
    """
    total = 0.0
    for tensors in (layers.tensors, *layers.others):
        total += sum(token_part(tensors[n], mesh) for n in names if n in tensors)
        if "attention" in names and "attention" in tensors:
            total += token_part(tensors["attention"], mesh)
            total += token_part(tensors["attention"][:1], mesh) * 4 / itemsize
    return total


def _kept(
    facts: Facts, setting: Setting, stack: Stack, tokens: float, layers: Layers
) -> Iterator[MemoryUse]:
    kept = setting.kept(stack)

    def bytes_of(names: frozenset[str]) -> float:
        each = kept_per_token(names, layers, setting.mesh, facts.itemsize)
        return each * tokens * facts.itemsize * layers.count

    extra = UNNAMED if kept.policy == "none" else 0
    width = setting.stream_part(stack)
    inputs = (1 + extra) * width * tokens * facts.itemsize * layers.count
    yield MemoryUse(
        kind="saved for backward",
        module="layers' inputs",
        num_bytes=inputs,
        on_host=setting.offload_input,
    )
    loops = [m for m in layers.maps if m.steps > 1]
    if loops and kept.policy == "none":  # whole, as the backward pass uses them
        size = sum(m.weights for m in loops) * layers.count * facts.itemsize
        yield MemoryUse(kind="saved for backward", module="weights of loops", num_bytes=size)
    if kept.on_device:
        size = bytes_of(kept.on_device)
        yield MemoryUse(kind="saved for backward", module="named tensors", num_bytes=size)
    if kept.on_host:
        size = bytes_of(kept.on_host)
        yield MemoryUse(kind="offloaded", module="named tensors", num_bytes=size, on_host=True)


def _one_layer(facts: Facts, setting: Setting, stack: Stack, tokens: float) -> float:
    """The peak bytes of the backward pass of one layer."""
    most = 0.0
    for layers in stack.layers:
        largest = max(
            m.weights / (1 if m.steps > 1 else _tensor_ways(m.array.axes, setting))
            for m in layers.maps
        )
        sizes = {n: token_part(x, setting.mesh) for n, x in layers.tensors.items()}
        ffn = sum(size for n, size in sizes.items() if n.startswith("ffn_"))
        if layers.experts is not None:
            width = layers.experts.width(stack.hidden) / setting.along("tensor")
            copies, there = layers.experts.experts_per_token, setting.along("expert")
            ffn += copies * (2 * stack.hidden + 3 * width)
            if there > 1:  # each has room for the rows of all of them
                ffn += copies * there * (ROOMS * stack.hidden + 3 * width)
        attention = 2 * sum(sizes[n] for n in ATTENTION if n in sizes)
        states = sizes.get("states", 0.0) + 2 * sizes.get("gates", 0.0)
        summed = sum(4 * m.weights for m in layers.maps if m.steps > 1)  # whole, in float32
        gathers = setting.along("fsdp") > 1 and setting.zero == 3
        weights = (
            2 * largest if gathers else 0.0
        )  # the present layer's, and the next one's all-gather
        held = (weights + max(ffn, attention, states) * tokens) * facts.itemsize
        most = max(most, held + summed)
    return most + 3 * stack.hidden * tokens * facts.itemsize


def _tensor_ways(axes: tuple[str | None, ...], setting: Setting) -> float:
    total = 1
    for axis in axes:
        total *= ways(axis, setting.mesh, ("fsdp",))
    return float(total)


def _head(facts: Facts, setting: Setting, tokens: float, sharing: int) -> float:
    """The peak bytes of the head's loss. `sharing`: devices that share one vocabulary."""
    vocab = facts.vocab / setting.along("tensor") / sharing
    rows = tokens * sharing / (facts.seq_len / setting.along("context"))
    chunk = rows * min(CHUNK, facts.seq_len)
    logits = chunk * vocab * 4
    kernel = facts.hidden * vocab * (facts.itemsize + 2 * 4)
    # hidden states of all devices, and their gradients before the sum
    gathered = chunk * facts.hidden * (facts.itemsize + 4) if sharing > 1 else 0.0
    return logits + kernel + gathered + 2 * tokens * facts.hidden * facts.itemsize
