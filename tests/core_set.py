"""The tests that prove the most for their time: `pytest -m core`, 90 seconds on two cores.

A line is a file, a test, or one case of it. They compare with something independent (torch's or
transformers' numbers, a plain loop, another mesh, an undisturbed run) in each part of the engine.
`python tests/core_set.py` prints their files: to read all others takes 20 seconds of each worker.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

CORE = (
    "tests/core/test_config.py",
    "tests/core/test_tree.py",
    "tests/data/test_packing.py",
    "tests/data/test_windows.py",
    "tests/data/test_mixture.py",
    "tests/data/test_tokenizers.py",
    "tests/data/test_store.py::test_documents_come_back",
    "tests/data/test_store.py::test_a_damaged_store_is_one_line_that_names_file_and_fix",
    "tests/data/test_store.py::test_killed_at_any_call_a_preparation_continues",
    "tests/objectives/test_ids.py",
    "tests/objectives/test_spans.py",
    "tests/kernels/test_attention.py",
    "tests/kernels/test_cross_entropy.py",
    "tests/kernels/test_linear_recurrence.py",
    "tests/nn/test_layers.py",
    "tests/models/test_families.py::test_logits_states_loss_and_gradients[gpt2]",
    "tests/models/test_families.py::test_logits_states_loss_and_gradients[mixtral]",
    "tests/models/test_encoder_families.py::test_logits_states_loss_and_gradients[t5]",
    "tests/mesh/test_mesh_gradients.py::test_a_gradient_does_not_depend_on_the_mesh[decoder-slices]",
    "tests/mesh/test_mesh_gradients.py::test_a_gradient_does_not_depend_on_the_mesh[lstm-tensor]",
    "tests/mesh/test_mesh_invariance.py::test_odd_sizes_start_equal",
    "tests/generate/test_generate.py::test_greedy_is_the_argmax_of_full_forwards",
    "tests/optim/test_optimizer.py::test_agrees_with_torch",
    "tests/optim/test_schedules.py",
    "tests/checkpoint/test_hashing.py",
    "tests/checkpoint/test_checkpoint.py::test_restores_bit_exact_on_other_meshes",
    "tests/checkpoint/test_checkpoint.py::test_one_flipped_bit_in_any_file_is_found",
    "tests/checkpoint/test_checkpoint.py::test_truncated_and_missing_files_are_found",
    "tests/training/test_state.py::test_accumulation_equals_the_big_batch[transformer]",
    "tests/training/test_state.py::test_a_step_that_is_not_finite_changes_nothing_but_the_counters",
    "tests/training/test_loop.py::test_the_step_compiles_once_and_nothing_else_in_the_loop[transformer]",
    "tests/training/test_resume.py::test_three_resumes_over_epoch_borders[lstm-4-feeds1]",
)


def mark(items: Sequence[pytest.Item], whole_files: bool) -> None:
    """Gives the tests of `CORE` their marker; a line that names nothing is an error.

    `whole_files`: all tests of each file are among the items.
    """
    found = set()
    for item in items:
        names = names_of(item.nodeid)
        found |= names
        if not names.isdisjoint(CORE):
            item.add_marker(pytest.mark.core)
    files = {name for name in found if "::" not in name}
    for line in CORE:
        if whole_files and line.partition("::")[0] in files and line not in found:
            raise pytest.UsageError(f"tests/core_set.py: {line} names no test")


def files() -> list[str]:
    return sorted({line.partition("::")[0] for line in CORE})


def names_of(nodeid: str) -> set[str]:
    """The case, its test, its file."""
    test = nodeid.partition("[")[0]
    return {nodeid, test, test.partition("::")[0]}


if __name__ == "__main__":
    print(*files())
