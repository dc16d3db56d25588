"""Nested dicts and their paths."""

from __future__ import annotations

import pytest

from jaxlm.core.tree import flatten, map_with_path, unflatten

TREE = {"b": {"kernel": 1, "a": {"bias": 2}}, "a": 3}


def test_flatten_joins_keys_in_sorted_order():
    assert list(flatten(TREE).items()) == [("a", 3), ("b/a/bias", 2), ("b/kernel", 1)]


def test_unflatten_is_the_inverse():
    assert unflatten(flatten(TREE)) == TREE
    assert flatten({}) == {} and unflatten({}) == {}


def test_order_does_not_depend_on_insertion():
    turned = {"a": 3, "b": {"a": {"bias": 2}, "kernel": 1}}
    assert list(flatten(TREE)) == list(flatten(turned))


def test_map_with_path_walks_several_trees():
    other = {"b": {"kernel": 10, "a": {"bias": (20,)}}, "a": 30}
    seen = map_with_path(lambda path, x, y: (path, x, y), TREE, other)
    assert seen == {
        "b": {"kernel": ("b/kernel", 1, 10), "a": {"bias": ("b/a/bias", 2, (20,))}},
        "a": ("a", 3, 30),
    }


def test_a_leaf_of_the_first_tree_ends_the_walk():
    axes = {"a": {"kernel": ("embed", "mlp")}}
    assert map_with_path(lambda path, x, y: y, {"a": {"kernel": 0}}, axes) == axes


def test_trees_of_other_keys_are_refused():
    with pytest.raises(KeyError):
        map_with_path(lambda path, x, y: 0, TREE, {"a": 1})
