"""PEFT's files there and back: logits that PEFT computed (tools/make_golden_peft.py), errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten
from jaxlm.hf.exporting import export_run, family_for
from jaxlm.hf.importing import import_model
from jaxlm.hf.peft import export_adapter, import_adapter
from jaxlm.hf.peft.exporting import write_adapter
from jaxlm.hf.peft.layout import imported_class, layout_of
from jaxlm.hf.peft.modules import Factors, joined
from jaxlm.hf.peft.settings import compact
from jaxlm.hf.stored import open_file
from jaxlm.run import load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training.build import program_of
from jaxlm.training.loading import load_trained
from tests.hf.test_hf import ONE, quiet, write_model
from tests.models.golden_families import FIXTURES, load_case
from tests.tiny import near_fresh

pytest.importorskip("safetensors")
from safetensors.numpy import save_file  # noqa: E402

PEFT = FIXTURES.parent / "peft"
CASES = sorted(path.name for path in PEFT.iterdir())
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def base_run(name: str, folder: Path) -> Path:
    case = load_case("case", PEFT / name)
    write_model(folder / "model", case.config, case.weights())
    encodes = "decoder_start_token_id" in case.config and "d_model" in case.config
    words = ("model.dtype=float32", *(["model.encoder.dtype=float32"] if encodes else []))
    import_model(folder / "model", folder / "base", (*ONE, *words), report=quiet)
    return folder / "base"


def logits_of(program: Any, params: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
    tokens = arrays["tokens"]
    real = np.arange(tokens.shape[1]) < arrays["lengths"][:, None]
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    rows = {"positions": positions, "segment_ids": real.astype(np.int32)}

    def forward(params: Any) -> jax.Array:
        model = nnx.merge(program.graphdef, params)
        if program.objective.task_head is not None:
            return program.objective.scores(model, {"tokens": tokens, **rows})[0]
        if not program.model.is_encoder_decoder:
            return model.logits(model(tokens, **rows).hidden)
        encoded = model.encode(tokens, **rows)
        whole = {**rows, "segment_ids": np.ones_like(tokens)}
        return model.logits(model(tokens[::-1], **whole, encoded=encoded).hidden)

    with jax.set_mesh(program.mesh):
        return np.asarray(jax.jit(forward)(params))


def assert_golden(found: np.ndarray, case: Any) -> None:
    want = case.arrays["logits"]
    if want.ndim == 3 and "d_model" not in case.config:
        real = np.arange(want.shape[1]) < case.arrays["lengths"][:, None]
        found, want = found[real], want[real]
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_peft_and_what_is_written_is_what_was_read(
    name: str, tmp_path: Path
) -> None:
    case, base = load_case("case", PEFT / name), base_run(name, tmp_path)
    run, said = tmp_path / "run", []
    import_adapter(PEFT / name, base, run, ONE, report=quiet)
    _, program, params, _ = load_trained(str(run), overrides=ONE, report=quiet)
    assert_golden(logits_of(program, params, case.arrays), case)

    export_adapter(run, tmp_path / "out", overrides=ONE, report=said.append)
    assert "the largest error of a logit is" in said[-1]
    note = json.loads((tmp_path / "out/jaxlm.json").read_text())
    assert note["check"]["largest_logit_error"] <= 1e-5
    before, after = (open_file(folder / WEIGHTS) for folder in (PEFT / name, tmp_path / "out"))
    stored = {key for key in before if not key.endswith("base_layer.weight")}
    assert stored == after.keys()
    again = tmp_path / "again"
    import_adapter(tmp_path / "out", base, again, ONE, report=quiet)
    _, _, read, _ = load_trained(str(again), overrides=ONE, report=quiet)
    first, second = flatten(params), flatten(read)
    assert first.keys() == second.keys()
    for path, value in first.items():
        np.testing.assert_allclose(second[path], value, atol=1e-6, err_msg=path)
    values = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert values["peft_type"] == "LORA" and values["base_model_name_or_path"] is not None


def test_a_merged_export_is_read_back_and_an_error_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, base = load_case("case", PEFT / "gpt2_dora"), base_run("gpt2_dora", tmp_path)
    run, said = tmp_path / "run", []
    import_adapter(PEFT / "gpt2_dora", base, run, ONE, report=quiet)
    export_run(run, tmp_path / "merged", overrides=ONE, report=said.append)
    assert "the largest error of a logit is" in said[-1]
    import_model(
        tmp_path / "merged", tmp_path / "plain", (*ONE, "model.dtype=float32"), report=quiet
    )
    _, program, params, _ = load_trained(str(tmp_path / "plain"), report=quiet)
    assert_golden(logits_of(program, params, case.arrays), case)

    from jaxlm.adapters.lora import LoRA

    monkeypatch.setattr("jaxlm.adapters.dora.DoRA.changed", LoRA.changed)  # a wrong merge
    with pytest.raises(UserError, match="gives logits that differ from the run's by .*the bound"):
        export_run(run, tmp_path / "wrong", overrides=ONE, report=quiet)
    assert not (tmp_path / "wrong").exists()


def test_experts_that_are_modules_of_their_own_are_read(tmp_path: Path) -> None:
    """As transformers 4 has them, and PEFT for it: the same factors, expert by expert."""
    golden = PEFT / "mixtral_experts"
    case, base = load_case("case", golden), base_run("mixtral_experts", tmp_path)
    number, names = case.config["num_local_experts"], {}
    for name, stored in open_file(golden / WEIGHTS).items():
        name, x = name.replace(".mlp.", ".block_sparse_moe."), np.array(stored)
        module, kind = name.split(".lora_")
        if not module.endswith(("experts", "experts.base_layer")):
            names[name] = x
            continue
        a, b = kind.startswith("A"), module.removesuffix(".base_layer")
        parts = ("w1", "w3") if b != module else ("w2",)
        for e in range(number):
            own = x.reshape(number, -1, x.shape[-1])[e] if a else x[:, e::number]
            for n, part in enumerate(parts):
                rows = own if a else np.split(own, len(parts))[n]
                names[f"{b}.{e}.{part}.lora_{kind}"] = np.ascontiguousarray(rows)
    older = tmp_path / "older"
    older.mkdir()
    save_file(names, older / WEIGHTS)
    values = json.loads((golden / CONFIG).read_text())
    values |= {
        "target_parameters": None,
        "target_modules": ["q_proj", "gate", "w1", "w2", "w3"],
        "rank_pattern": {r"layers.1.*experts.*w[13]": 3, "block_sparse_moe.gate": 1},
        "alpha_pattern": {r"layers.0.*experts.*w2": 7},
    }
    (older / CONFIG).write_text(json.dumps(values))
    run = tmp_path / "run"
    import_adapter(older, base, run, ONE, report=quiet)
    _, program, params, _ = load_trained(str(run), overrides=ONE, report=quiet)
    assert_golden(logits_of(program, params, case.arrays), case)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("{type: dora, rank: 2}", "kernels of experts, which have no magnitude in PEFT"),
        ("{type: lora, targets: [query, router], dropout: 0.1}", "no dropout beside .*gate.weight"),
        ("{type: lora, targets: [query], train: [ffn/down]}", "experts that are trained in full"),
    ],
)
def test_what_peft_lacks_for_experts_is_one_line(tmp_path: Path, adapter: str, said: str) -> None:
    base = RunDir(base_run("mixtral_experts", tmp_path))
    config = load_saved(base.path, [*ONE, f"adapter={adapter}"]).config
    program = program_of(config, config.mesh.build())
    family = family_for(base, config.model, None)
    layout = layout_of(config, program, family, imported_class(base), quiet)
    params = near_fresh(program.abstract_params)
    with pytest.raises(UserError, match=said) as error:
        write_adapter(tmp_path, layout, config.adapter, program, params, None)
    assert "\n" not in str(error.value)


def test_kernels_of_one_module_with_an_a_each_are_stacked_exactly() -> None:
    """B A of the module is each kernel's own B A, below each other; a kernel without one: 0."""

    class Stub:
        def __init__(self, where: str, num_outputs: int) -> None:
            self.where, self.num_outputs = where, num_outputs

    rng = np.random.default_rng(0)
    q = Factors(*(rng.normal(size=s).astype(np.float32) for s in ((2, 6), (4, 2))), 2.0)
    v = Factors(*(rng.normal(size=s).astype(np.float32) for s in ((3, 6), (5, 3))), 0.5)
    parts: Any = [Stub("q", 4), Stub("k", 5), Stub("v", 5)]
    whole = joined(parts, {"q": q, "v": v}, {})
    assert whole.a.shape == (5, 6) and whole.b.shape == (14, 5)
    want = np.concatenate([2.0 * q.b @ q.a, np.zeros((5, 6)), 0.5 * v.b @ v.a])
    np.testing.assert_allclose(whole.scale * whole.b @ whole.a, want, atol=1e-6)
    shared = joined(parts[:2], {"q": q, "k": Factors(q.a, rng.normal(size=(5, 2)), 2.0)}, {})
    assert shared.a.shape == (2, 6)


def test_ends_of_names_are_used_where_they_name_no_other_module() -> None:
    every = ["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.1.attn.c_proj", "h.1.mlp.c_proj", "x_proj"]
    assert compact(every[:4], every) == ["c_proj"]
    assert compact([every[0], every[2]], every) == ["attn.c_proj"]
    assert compact([every[0]], every) == ["h.0.attn.c_proj"]
    assert compact(["norm"], ["norm", "q_norm"]) == ["norm"]
    assert compact(["a.norm"], ["a.norm", "a.q_norm"], dotted=False) == ["a.norm"]


WRONG = {
    "peft_type": ("IA3", "peft_type is 'IA3'; LORA alone is read"),
    "layer_replication": ([[0, 1]], r"layer_replication is .* may change the result"),
    "init_lora_weights": ("pissa", "init_lora_weights is 'pissa', which changes the base"),
    "some_new_key": (3, "some_new_key is 3, which is not read"),
    "r": (5, "has rank 2, but 5 by adapter_config.json"),
}


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    base = base_run("gpt2", tmp_path)
    for number, (key, (value, said)) in enumerate(WRONG.items()):
        folder = tmp_path / key
        shutil.copytree(PEFT / "gpt2", folder)
        values = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(values | {key: value}))
        with pytest.raises(UserError, match=said) as error:
            import_adapter(folder, base, tmp_path / f"run{number}", ONE, report=quiet)
        assert "\n" not in str(error.value)
    with pytest.raises(
        UserError, match="is not an adapter of this GPT2LMHeadModel: it has no .*q_proj"
    ):
        import_adapter(PEFT / "llama", base, tmp_path / "other", ONE, report=quiet)
    with pytest.raises(UserError, match="has no adapter, but PEFT's files hold lora and dora"):
        export_adapter(base, tmp_path / "out", overrides=ONE, report=quiet)
    broken = tmp_path / "broken"
    shutil.copytree(PEFT / "gpt2", broken)
    tensors = {name: np.array(x) for name, x in open_file(broken / WEIGHTS).items()}
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    tensors[name].flat[0] = np.nan
    save_file(tensors, broken / WEIGHTS)
    for folder, said in ((broken, f"NaN or infinite values in {name}"), (PEFT / "llama", "is not")):
        with pytest.raises(UserError, match=said):  # the base is imported, and does not stay
            import_adapter(folder, tmp_path / "model", tmp_path / "failed", ONE, report=quiet)
        assert not [*tmp_path.glob("failed*")]
    run = tmp_path / "adapted"
    import_adapter(PEFT / "gpt2", base, run, ONE, report=quiet)
    export_adapter(run, tmp_path / "out", overrides=ONE, report=quiet)
    note = tmp_path / "out/jaxlm.json"
    note.write_text(note.read_text().replace('"sha256": "', '"sha256": "0'))
    for named in (base, tmp_path / "model"):
        says = f"^--base: {named} has SHA.* was trained with a base of 0"
        with pytest.raises(UserError, match=says):
            import_adapter(tmp_path / "out", named, tmp_path / "fourth", ONE, report=quiet)
