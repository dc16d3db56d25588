"""The forms in which XLA writes the groups of a collective, against the groups themselves."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlm.plan.hlo.groups import axes_of, crosses, groups, pairs

MESH = {"data": 2, "fsdp": 4, "tensor": 2}
IDS = np.arange(16).reshape(2, 4, 2)


def along(axis: int) -> set[tuple[int, ...]]:
    return {tuple(row) for row in np.moveaxis(IDS, axis, -1).reshape(-1, IDS.shape[axis]).tolist()}


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("[8,2]<=[16], dimensions={1}", 2),
        ("[4,4]<=[2,4,2]T(0,2,1), dimensions={1}", 1),
        ("[8,2]<=[2,8]T(1,0)", 0),
        ("{{0,2,4,6},{1,3,5,7},{8,10,12,14},{9,11,13,15}}, use_global_device_ids=true", 1),
        ("mesh['x'=2,'y'=4,'z'=2] {'y'}, dimensions={1}", 1),
        ("mesh['x'=2,'y'=4,'z'=2,'w'=1] {'z'}", 2),
        ("mesh['x'=4,'y'=2,'z'=2], device_ids=([4,2,2]<=[2,4,2]T(1,0,2)) {'y'}, a={1}", 0),
        ("mesh['x'=4,'y'=2,'z'=2], device_ids=([2,4,2]T(1,0,2)) {'y'}, a={1}", 0),
        ("mesh['x'=2,'all'=8] {'all':(1)4}", 1),
    ],
)
def test_every_form_gives_the_groups_along_an_axis(text, axis):
    found = groups(text, 16)
    assert {tuple(sorted(row)) for row in found.tolist()} == along(axis)
    assert axes_of(found, MESH) == (tuple(MESH)[axis],)


def test_no_groups_are_one_of_all():
    assert groups("{}, channel_id=1", 16).tolist() == [list(range(16))]
    assert axes_of(groups("{}", 16), MESH) == ("data", "fsdp", "tensor")


def test_groups_of_two_axes():
    assert axes_of(groups("[2,8]<=[16]", 16), MESH) == ("fsdp", "tensor")


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="unknown form"):
        groups("cube[1,2]", 16)


def test_pairs_of_a_permutation():
    found = pairs("{{0,2},{2,4},{4,6},{6,0}}")
    assert found.tolist() == [[0, 2], [2, 4], [4, 6], [6, 0]]
    assert axes_of(found, MESH) == ("fsdp",)


def test_the_slices_of_a_group():
    slices = [0] * 8 + [1] * 8
    assert crosses(groups("[8,2]<=[2,8]T(1,0)", 16), slices) == 2
    assert crosses(groups("[8,2]<=[16]", 16), slices) == 1
