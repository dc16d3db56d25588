"""The typed config: YAML in, errors of one line, YAML out."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import math
import os
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import yaml

from jaxlm.core.config import (
    REQUIRED,
    Config,
    ConfigError,
    Kind,
    Layer,
    Mark,
    UserError,
    describe,
    diff,
    field,
    load,
    parse,
    read_overrides,
    read_yaml,
    settings,
    sha256,
    to_dict,
    to_yaml,
)
from jaxlm.core.errors import few, suggest, wrong_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Config):
    """A part of one of several types."""

    kind: ClassVar = Kind("parts", "part", folder=__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Part, type="plain"):
    """The plain part."""

    rate: float = field(0.1, "how fast", gt=0, lt=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fancy(Part, type="fancy"):
    """The fancy part."""

    rate: float = field(0.2, "how fast", gt=0)
    beta: float = field(0.9, "how slow", ge=0, le=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes(Config):
    hidden_size: int = field(64, "width", ge=1)
    num_heads: int = field(4, "heads", ge=1)

    def validate(self) -> None:
        if self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size {self.hidden_size} is not a multiple; make it one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Config):
    name: str = field(REQUIRED, "a name for the run")
    steps: int = field(100, "updates", ge=1)
    rate: float = field(1, "a float whose default is spelt as a whole number", ge=0)
    half: int = field(1, "a whole number whose bound is not", ge=0.5)
    deep: bool = field(False, "on or off")
    every: int | None = field(None, "null: never", ge=1)
    dtype: Literal["float32", "bfloat16"] = field("float32", "compute type")
    files: tuple[str, ...] = field((), "file names")
    groups: tuple[tuple[str, float], ...] = field((), "(pattern, value)", ge=0)
    weights: dict[str, float] = field(dict, "weight of each name", ge=0)
    amount: int | str = field(0, "a count or a word")
    from_: str | None = field(None, "a field that is a keyword")
    sizes: Sizes = field(Sizes, "the shape")
    part: Part = field(Plain, "the part")
    parts: tuple[Part, ...] = field((), "more parts")


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, *overrides: str) -> Run:
    return load(write(folder, text), Run, overrides).config


def message(call) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text, text
    return text


# ---------------------------------------------------------------------------------- right configs


def test_every_kind_of_field(tmp_path):
    text = """
name: a
rate: 3
every: 5
deep: true
dtype: bfloat16
files: [x, y]
groups: [[bias, 0], [.*, 1e-1]]
weights: {a: 1, b: 2.5}
amount: many
from: runs/a
sizes: {hidden_size: 128}
part: {type: fancy, beta: 1}
parts:
  - type: plain
  - {type: fancy, rate: 7}
"""
    assert read(tmp_path, text) == Run(
        name="a",
        rate=3.0,
        every=5,
        deep=True,
        dtype="bfloat16",
        files=("x", "y"),
        groups=(("bias", 0.0), (".*", 0.1)),
        weights={"a": 1.0, "b": 2.5},
        amount="many",
        from_="runs/a",
        sizes=Sizes(hidden_size=128),
        part=Fancy(beta=1.0),
        parts=(Plain(), Fancy(rate=7.0)),
    )
    assert isinstance(read(tmp_path, "name: a\nrate: 3").rate, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+2", 100.0),
        ("-2.5e-1", -0.25),
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1_000", 1000),
        ("0x10", 16),
        ("-3", -3),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("1:30", "1:30"),
        ("010", "010"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("'1e-3'", "1e-3"),
        ("e5", "e5"),
        ("inf", "inf"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path, text, value):
    read_value = read_yaml(write(tmp_path, f"x: {text}")).values["x"]
    assert read_value == value and type(read_value) is type(value)


def test_one_value_is_read_as_a_list_of_one(tmp_path):
    config = read(tmp_path, "name: a\nfiles: x\nparts: {type: fancy}")
    assert config.files == ("x",) and config.parts == (Fancy(),)


def test_empty_file_has_the_defaults(tmp_path):
    assert read(tmp_path, "", "name=a") == Run(name="a")
    assert read(tmp_path, "# nothing\n", "name=a") == Run(name="a")


def test_includes_stack_from_the_first_to_the_file_itself(tmp_path):
    write(tmp_path, "name: low\nsteps: 1\nrate: 1\nsizes: {hidden_size: 8}", "parts/low.yaml")
    write(tmp_path, "steps: 2\nrate: 2\nsizes: {num_heads: 2}", "parts/high.yaml")
    # `include:` counts as lowest wherever it is in the mapping
    config = read(tmp_path, "rate: 3\ninclude: [parts/low.yaml, parts/high.yaml]")
    assert (config.name, config.steps, config.rate) == ("low", 2, 3.0)
    assert config.sizes == Sizes(hidden_size=8, num_heads=2)


def test_include_inside_a_mapping_and_relative_to_its_own_file(tmp_path):
    write(tmp_path, "num_heads: 2", "a/b/heads.yaml")
    write(tmp_path, "include: b/heads.yaml\nhidden_size: 6", "a/sizes.yaml")
    resolved = load(
        write(tmp_path, "name: a\nsizes:\n  include: a/sizes.yaml\n  hidden_size: 10"), Run
    )
    assert resolved.config.sizes == Sizes(hidden_size=10, num_heads=2)
    assert str(resolved.marks["sizes.num_heads"]) == f"{tmp_path}/a/b/heads.yaml:1"
    assert str(resolved.marks["sizes.hidden_size"]) == f"{tmp_path}/run.yaml:4"


def test_another_type_replaces_the_whole_mapping(tmp_path):
    text = "name: a\npart: {type: fancy, beta: 0.5, rate: 0.3}"
    assert read(tmp_path, text, "part.type=plain").part == Plain()
    assert read(tmp_path, text, "part.type=fancy").part == Fancy(beta=0.5, rate=0.3)
    assert read(tmp_path, text, "part.rate=0.4").part == Fancy(beta=0.5, rate=0.4)
    # in either order, no override is lost
    for overrides in (["part.type=plain", "part.rate=0.7"], ["part.rate=0.7", "part.type=plain"]):
        assert read(tmp_path, text, *overrides).part == Plain(rate=0.7)


def test_another_type_replaces_what_an_include_brought(tmp_path):
    write(tmp_path, "type: fancy\nbeta: 0.5", "fancy.yaml")
    config = read(tmp_path, "name: a\npart:\n  include: fancy.yaml\n  type: plain")
    assert config.part == Plain()


def test_overrides(tmp_path):
    config = read(
        tmp_path,
        "name: a\nevery: 3\nfiles: [x, y]\nweights: {a: 1}\nparts: [{type: fancy, beta: 0.5}]",
        "steps=7",
        "steps=8",
        "every=null",
        "sizes.hidden_size=12",
        "files=[z]",
        "weights.b=2",
        "parts.0.rate=3",
        "dtype=bfloat16",
        "from=a=b",
    )
    assert (config.steps, config.every, config.files) == (8, None, ("z",))
    assert config.sizes == Sizes(hidden_size=12) and config.weights == {"a": 1.0, "b": 2.0}
    assert config.parts == (Fancy(beta=0.5, rate=3.0),)
    assert (config.dtype, config.from_) == ("bfloat16", "a=b")


def test_the_file_overrides_the_base_which_stays_as_it_is(tmp_path):
    base = Layer({"name": "low", "sizes": {"num_heads": 2}}, {"name": Mark("base")})
    resolved = load(write(tmp_path, "sizes: {hidden_size: 6}"), Run, ["steps=3"], base)
    assert resolved.config == Run(name="low", steps=3, sizes=Sizes(hidden_size=6, num_heads=2))
    assert base.values == {"name": "low", "sizes": {"num_heads": 2}}
    assert resolved.marks["name"] == Mark("base")


def test_a_config_object_may_replace_its_values():
    assert parse(Run, {"name": "a", "part": Fancy(beta=0.5)}).part == Fancy(beta=0.5)


# ----------------------------------------------------------------------------------------- errors


# the "billion laughs": ten aliases of ten aliases, nine times
BOMB = "name: a\nfiles:\n- &0 [lol]\n" + "".join(
    f"- &{n} [{', '.join([f'*{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGED_BOMB = BOMB.replace("[lol]", "{lol: 1}").replace("[", "{<<: [").replace("]", "]}")


def test_a_part_without_a_type_is_of_the_defaults(tmp_path):
    """`part` has a default, whose type is meant; a list of parts has none."""
    assert read(tmp_path, "name: a\npart: {rate: 0.3}").part == Plain(rate=0.3)
    assert read(tmp_path, "name: a\npart: {type: fancy}", "part.rate=0.3").part == Fancy(rate=0.3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nstep: 1", "run.yaml:2: step: unknown key; did you mean steps?"),
        ("name: a\nzzz: 1", "run.yaml:2: zzz: unknown key; choose one of amount, deep, dtype"),
        ("name: a\nsizes:\n  hidden: 1", "run.yaml:3: sizes.hidden: unknown key; did you mean hid"),
        ("steps: 1", "run.yaml: name: is required; set it to a name for the run"),
        ("name: 3", "run.yaml:1: name: expected text, got 3; put it in quotes"),
        ("name: a\nsteps: 1e2", "run.yaml:2: steps: expected a whole number, got 100.0; write 100"),
        ("name: a\nsteps: many", "run.yaml:2: steps: expected a whole number, got 'many'; write"),
        ("name: a\nsteps: true", "run.yaml:2: steps: expected a whole number, got True"),
        ("name: a\nsteps:", "run.yaml:2: steps: expected a whole number, got None"),
        ("name: a\nrate: fast", "run.yaml:2: rate: expected a number, got 'fast'; write a number"),
        ("name: a\nrate: true", "run.yaml:2: rate: expected a number, got True"),
        ("name: a\ndeep: no", "run.yaml:2: deep: expected true or false, got 'no'"),
        ("name: a\ndeep: 1", "run.yaml:2: deep: expected true or false, got 1"),
        ("name: a\ndtype: float16", "run.yaml:2: dtype: unknown value 'float16'; did you mean "),
        (
            "name: a\ndtype: [x]",
            "run.yaml:2: dtype: unknown value ['x']; choose one of bfloat16, f",
        ),
        ("name: a\nevery: 0", "run.yaml:2: every: 0 is out of range; set it >= 1"),
        ("name: a\nhalf: 0", "run.yaml:2: half: 0 is out of range; set it >= 0.5"),
        ("name: a\nrate: .nan", "run.yaml:2: rate: is not a number (nan); set a finite number"),
        ("name: a\nfiles: [x, 3]", "run.yaml:2: files.1: expected text, got 3"),
        ("name: a\ngroups: [[x, -1]]", "run.yaml:2: groups.0.1: -1.0 is out of range; set"),
        ("name: a\ngroups: [[x]]", "run.yaml:2: groups.0: expected a list of 2 values, got 1"),
        ("name: a\nweights: 3", "run.yaml:2: weights: expected a mapping, got 3"),
        ("name: a\nweights:\n  b: x", "run.yaml:3: weights.b: expected a number, got 'x'"),
        ("name: a\nweights:\n  b: -1", "run.yaml:3: weights.b: -1.0 is out of range; set it >= 0"),
        ("name: a\nsizes: 3", "run.yaml:2: sizes: expected a mapping of keys, got 3"),
        (
            "name: a\npart: plain",
            "run.yaml:2: part: expected a mapping of keys, got 'plain'; write {type: plain}",
        ),
        ("name: a\nsizes:\n  num_heads: 7", "run.yaml:2: sizes: hidden_size 64 is not a multiple"),
        (
            "name: a\nparts:\n  - rate: 0.1",
            "run.yaml:3: parts.0.type: is required; choose one of fancy, ",
        ),
        (
            "name: a\npart:\n  type: fanzy",
            "run.yaml:3: part.type: unknown type 'fanzy'; did you me",
        ),
        ("name: a\npart:\n  type: [x]", "run.yaml:3: part.type: unknown type ['x']; choose one of"),
        ("name: a\npart: {type: plain, beta: 1}", "run.yaml:2: part.beta: unknown key; choose one"),
        (
            "name: a\npart: {type: plain, rate: 1}",
            "run.yaml:2: part.rate: 1.0 is out of range; set",
        ),
        (
            "name: a\nparts:\n- type: plain\n- {type: x}",
            "run.yaml:4: parts.1.type: unknown type 'x",
        ),
        ("name: a\nsteps: 1\nname: b", "run.yaml:3: name is set twice; remove one"),
        (
            "name: a\nsizes: {num_heads: 1, num_heads: 2}",
            "run.yaml:2: sizes.num_heads is set twice",
        ),
        ("- a", "run.yaml: holds a list; a config is a mapping of keys"),
        ("3", "run.yaml: holds a single value; a config is a mapping of keys"),
        ("name: [a", "run.yaml:1: expected ',' or ']'"),
        ("name: a\n b: c", "run.yaml:2: mapping values are not allowed here; fix the YAML"),
        ("name: a\x00", "run.yaml:1: character U+0000 is not allowed in YAML; remove"),
        ("name: a\n---\nname: b", "run.yaml:2: but found another document; fix the YAML"),
        (
            "name: a\nsizes: &x {num_heads: *x}",
            "run.yaml:2: an alias holds itself; write the values",
        ),
        (
            "name: a\ninclude: elsewhere",
            "run.yaml:2: {folder}/elsewhere: no such config file; check",
        ),
        (
            "name: a\ninclude: run.yam",
            "{folder}/run.yam: no such config file; did you mean {folder}",
        ),
        ("include: run.yaml", "run.yaml:1: {folder}/run.yaml includes itself; remove the circular"),
        ("name: a\ninclude: 3", "run.yaml:2: include: expected file names, got 3; name YAML files"),
        ("name: a\ninclude: [1]", "run.yaml:2: include: expected file names, got [1]"),
        ("name: a\ninclude: .", "run.yaml:2: {folder}: is a directory; name a YAML file"),
        ("name: a\ninclude: /dev/zero", "run.yaml:2: /dev/zero: is a pipe or a device; name a reg"),
        (
            "name: a\ninclude: pipe",
            "run.yaml:2: {folder}/pipe: is a pipe or a device; name a regul",
        ),
        ("name: a\ninclude: loop", "run.yaml:2: {folder}/loop: too many levels of symbolic links;"),
        ('name: a\ninclude: "a\\0b"', "is not a file name; name a YAML file"),
        ("name: a\ninclude: " + "n" * 256, "file name too long; name a YAML file"),
        ("name: a\ninclude: large", "{folder}/large: is larger than 1,000,000 bytes; a config is"),
        ("name: a\ninclude: x.yaml\ninclude: y.yaml", "run.yaml:3: include is set twice; remove"),
        ("name: a\nsteps: " + "9" * 5000, "run.yaml:2: steps: a number of 5,000 characters; write"),
        ("name: a\nsteps: 0x" + "f" * 5000, "run.yaml:2: steps: a number of 5,002 characters; wri"),
        (
            "name: a\nsteps: " + "9" * 31,
            "run.yaml:2: steps: 9999999999999999999999999999999 is out",
        ),
        (
            "name: a\nsteps: " + "9" * 99,
            "steps: a whole number of about 100 digits is out of range;",
        ),
        (
            "name: a\nsteps: 2147483648",
            "run.yaml:2: steps: 2147483648 is out of range; set it >= 1 and",
        ),
        ("name: a\nrate: .inf", "run.yaml:2: rate: inf is out of range; set it"),
        ("name: a\nrate: 1e39", "run.yaml:2: rate: 1e+39 is out of range; set it"),
        ("name: a\nrate: 1e-46", "run.yaml:2: rate: 1e-46 is 0 in float32; set it to 0 or"),
        ("name: a\npart: {type: plain, rate: 0.99999999999}", "out of range: it is 1.0 in float32"),
        ('name: "\\ud83d"', "run.yaml:1: name: '\\ud83d' holds half a surrogate pair"),
        ('"\\ud83d": 1', "run.yaml:1: key: '\\ud83d' holds half a surrogate pair"),
        ('name: "\\UFFFFFFFF"', "run.yaml: an escape is not a character; fix the YAML"),
        (
            "name: !!int many",
            "run.yaml:1: name: 'many' with the tag 'tag:yaml.org,2002:int' is not",
        ),
        ("name: !!binary aGk=", "run.yaml:1: name: 'aGk=' with the tag 'tag:yaml.org,2002:binary'"),
        ("name: !!python/tuple [a]", "run.yaml:1: the tag 'tag:yaml.org,2002:python/tuple' is not"),
        ("? [a]\n: 1", "run.yaml:1: a key is a list or a mapping; write a name"),
        (f"{'k' * 300}: 1", "run.yaml:1: a key of 300 characters; write a name"),
        ('"a\\nb": 1', "run.yaml:1: a\\nb: unknown key; choose one of"),
        (
            "name: " + "[" * 80 + "]" * 80,
            "run.yaml:1: values are nested more than 64 deep; flatten",
        ),
        ("name: " + "[" * 3000 + "]" * 3000, "run.yaml: values are nested more than 64 deep; flat"),
        ("name: a\nfiles: " + "x" * 5000 + ": 1", "fix the YAML"),
        ("name: a\n<<: 3", "run.yaml:2: << takes a mapping or a list of them; write an alias"),
        ("name: a\nsizes: &x\n  <<: *x", "run.yaml:2: an alias holds itself; write the values out"),
        ("name: a\nsizes: [" + "1, " * 500 + "1]", "got [1, 1, 1, 1, 1, 1, ...]; write"),
        (BOMB, "expands to more than 50,000 values; write fewer, or fewer aliases"),
        (
            BOMB.replace("[", "{<<: [").replace("]", "]}").replace("lol", "{lol: 1}"),
            "more than 50,000 v",
        ),
    ],
)
def test_a_mistake_is_one_line_with_path_place_and_fix(tmp_path, text, said):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"#" * 1_000_001)
    found = message(lambda: read(tmp_path, text))
    assert said.replace("{folder}", str(tmp_path)) in found
    assert found.startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stepz=3", "command line: stepz: unknown key; did you mean steps?"),
        ("sizes.num_head=3", "command line: sizes.num_head: unknown key; did you mean num_heads?"),
        ("stepz.sub=3", "command line: stepz: unknown key; did you mean steps?"),
        ("steps=x", "command line: steps: expected a whole number, got 'x'"),
        ("sizes={num_heads: x}", "command line: sizes.num_heads: expected a whole number, got 'x'"),
        ("steps", "override 'steps': write it as key.sub=value"),
        ("=3", "override '=3': write it as key.sub=value"),
        ("a..b=3", "override 'a..b=3': write it as key.sub=value"),
        ("steps=[", "override 'steps=[': '[' is not YAML; quote it"),
        ("files.5=x", "command line: files.5: no such element of the list; it has 2, counted from"),
        (
            "sizes={num_heads: 1, num_heads: 2}",
            "command line: sizes.num_heads is set twice; remove",
        ),
        ("sizes={1: 2}", "command line: sizes.1: unknown key"),
        ("sizes={include: a.yaml}", "command line: include: works in a file only; write it there"),
        ("files=" + "[" * 3000, "is not YAML; quote it"),
        (".".join("a" * 100) + "=1", "values are nested more than 64 deep; flatten them"),
        ("steps=" + "9" * 5000, "command line: steps: a number of 5,000 characters; write one of"),
        ("steps=-0x" + "9" * 5000, "command line: steps: expected a whole number, got '-0x99999"),
        ("name='\udcff'", "is not YAML; quote it"),
        ('name="\\ud83d"', "command line: name: '\\ud83d' holds half a surrogate pair"),
        ("sizes.num_heads=5", "command line: sizes: hidden_size 64 is not a multiple"),
    ],
)
def test_a_mistaken_override_is_one_line(tmp_path, override, said):
    assert said in message(lambda: read(tmp_path, "name: a\nfiles: [x, y]", override))


def test_includes_have_a_number(tmp_path):
    for n in range(12):  # each includes the next one twice
        write(tmp_path, f"include: [{n + 1}.yaml, ./{n + 1}.yaml]", f"{n}.yaml")
    write(tmp_path, "name: a", "12.yaml")
    found = message(lambda: load(tmp_path / "0.yaml", Run))
    assert "more than 200 files are included; include fewer" in found


@pytest.mark.parametrize(
    "secret", ["*s3cret", "&a 1\nb: &s3cret", "!s3cret 1", "%TAG s3cret", "s3cret: [", "x: 's3cret"]
)
def test_an_error_in_an_included_file_shows_nothing_of_its_text(tmp_path, secret):
    write(tmp_path, secret, "shadow")
    found = message(lambda: read(tmp_path, "name: a\ninclude: shadow"))
    assert "s3cret" not in found and f"{tmp_path}/shadow" in found


def test_merge_keys(tmp_path):
    text = """
name: &n a
sizes: &base {hidden_size: 8, num_heads: 2}
weights: &more
  <<: {x: 1, y: 2}
  y: 3
parts:
- {<<: [{type: fancy, rate: 4}, {type: plain, beta: 0.5}], beta: 1}
"""
    config = read(tmp_path, text)
    assert config.weights == {"x": 1.0, "y": 3.0}
    assert config.parts == (Fancy(rate=4.0, beta=1.0),)
    resolved = load(write(tmp_path, text), Run)
    assert str(resolved.marks["weights.x"]) == f"{tmp_path}/run.yaml:5"


def test_json_pairs_of_surrogates_are_one_character(tmp_path):
    assert read(tmp_path, '{"name": "\\ud83d\\ude00"}').name == "\U0001f600"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("n" * 256, "has a part of 256 bytes"),
        ("é" * 128, "has a part of 256 bytes"),
        ("/n" * 2048, "4,096 bytes, and a path has at most 4,095"),
        ("", "'' is not a name"),
        ("a\0b", "is not a name"),
        ("\ud800", "is not UTF-8 text"),
        ("n" * 255, None),
        ("/n" * 2047, None),
    ],
)
def test_paths_are_names_that_a_file_can_have(name, what):
    found = wrong_path(name)
    assert found is None if what is None else what in found


@pytest.mark.parametrize("count", [0, 1, 10, 11, 5000])
def test_lists_of_names_are_cut_with_a_count(count):
    found = few(range(count))
    assert found.count(",") <= 10
    assert (" more" in found) == (count > 10)
    assert found.endswith(f"and {count - 10:,} more") or count <= 10


def test_a_suggestion_looks_at_all_names():
    names = [f"{n:05}.yaml" for n in range(200)]
    assert suggest("00199.yml", names).startswith("did you mean 00199.yaml")
    assert suggest("zzz", names).endswith("00009.yaml and 190 more")


def test_missing_folder_and_binary_files(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("name: a")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    near = message(lambda: load(tmp_path / "quikstart.yaml", Run))
    assert f"no such config file; did you mean {tmp_path}/quickstart.yaml?" in near
    assert "no such config file; check the path" in message(lambda: load(tmp_path / "x/y", Run))
    assert "not UTF-8 text" in message(lambda: load(tmp_path / "binary.yaml", Run))
    assert "is a directory" in message(lambda: load(tmp_path, Run))


def test_errors_are_value_errors():
    assert issubclass(ConfigError, UserError) and issubclass(UserError, ValueError)


# ---------------------------------------------------------------------------------- back to values

FULL = Run(
    name="no",
    rate=1e-5,
    every=None,
    files=("1e-3", "1:30", "0o7", "010", "true", "null", "~", "2024-01-01", "", "a: b", "é\n#ü 中"),
    groups=((".*/kernel$", 1e-20), ("é", 1e30)),
    weights={"x y": 0.25},
    from_="a",
    part=Fancy(beta=0.125),
    parts=(Plain(), Fancy()),
)


def test_yaml_round_trip(tmp_path):
    text = to_yaml(FULL)
    resolved = load(write(tmp_path, text), Run)
    assert resolved.config == FULL
    assert to_yaml(resolved.config) == text
    assert sha256(resolved.config) == sha256(FULL)
    # another reader of YAML must not see numbers or booleans in what is text
    other = yaml.safe_load(text)
    assert other["name"] == "no" and list(other["files"]) == list(FULL.files)
    assert parse(Run, to_dict(FULL)) == FULL


def test_a_concrete_class_reads_what_it_wrote():
    assert parse(Fancy, to_dict(Fancy(beta=0.5))) == Fancy(beta=0.5)
    assert "unknown key" in message(lambda: parse(Fancy, {"type": "plain"}))


def test_a_list_of_one_config_is_written_as_a_list(tmp_path):
    config = Run(name="a", parts=(Fancy(beta=0.5),))
    text = to_yaml(config)
    assert yaml.safe_load(text)["parts"] == [to_dict(Fancy(beta=0.5))]
    # as earlier versions wrote it, its hash and its overrides are the same
    plain = write(tmp_path, f"name: a\nparts: {to_dict(Fancy(beta=0.5))}", "plain.yaml")
    assert load(plain, Run).config == config
    written = write(tmp_path, text)
    for path in (plain, written):
        resolved = load(path, Run, ["parts.beta=0.25"])
        assert resolved.config.parts == (Fancy(beta=0.25),)
        sources = {path: source for path, _, _, source in settings(resolved)}
        assert sources["parts.beta"] == "command line"
        assert sources["parts.rate"].startswith(f"{path}:")
        with pytest.raises(ConfigError, match="^command line: parts.*beta: 3.0 is out of range"):
            load(path, Run, ["parts.beta=3"])
    assert load(written, Run, ["parts={type: plain}"]).config.parts == (Plain(),)
    canonical = b'{"parts":{"rate":0.1,"type":"plain"}}'
    assert sha256(Several(parts=(Plain(),))) == hashlib.sha256(canonical).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Several(Config):
    parts: tuple[Part, ...] = field((), "parts")


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Way(enum.Enum):
    UP = (0, 1)
    DOWN = (0, -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen(Config):
    number: int = field(Level.HIGH, "a number that the code has a name for")
    level: Level = field(Level.LOW, "how high", ge=1)
    ways: tuple[Way, ...] = field((Way.UP,), "which way")
    maybe: Level | None = field(None, "how high; null: nowhere")


def test_members_of_enums_are_written_as_plain_values_and_read_back(tmp_path):
    config = Chosen(ways=(Way.DOWN, Way.UP), maybe=Level.HIGH)
    text = to_yaml(config)
    written = {"number": 2, "level": 1, "ways": ["DOWN", "UP"], "maybe": 2}
    assert yaml.safe_load(text) == written
    found = load(write(tmp_path, text), Chosen).config
    assert found == config and found.maybe is Level.HIGH and to_yaml(found) == text
    assert sha256(found) == sha256(config) and diff(found, config) == []
    assert load(write(tmp_path, "level: HIGH"), Chosen).config.level is Level.HIGH
    with pytest.raises(
        ConfigError, match="run.yaml:1: level: unknown value 'LOWE'; did you mean LOW"
    ):
        load(write(tmp_path, "level: LOWE"), Chosen)
    with pytest.raises(ConfigError, match="level: unknown value True; choose one of HIGH"):
        load(write(tmp_path, "level: true"), Chosen)


def test_shared_parts_are_written_out_in_full():
    part = Fancy(beta=0.5)
    text = to_yaml(Run(name="a", part=part, parts=(part, part)))
    assert "&" not in text and "*" not in text


def test_sha256_depends_on_the_values_alone(tmp_path):
    one = read(tmp_path, "name: a\nsteps: 5\nrate: 1")
    write(tmp_path, "steps: 4\nrate: 1.0", "low.yaml")
    two = read(tmp_path, "include: low.yaml\nname: b", "name=a", "steps=5")
    direct = Run(name="a", steps=5)
    assert sha256(one) == sha256(two) == sha256(direct)
    assert (
        len({sha256(direct), sha256(direct.replace(steps=6)), sha256(Run(name="b", steps=5))}) == 3
    )
    assert sha256(Run(name="a", part=Plain())) != sha256(Run(name="a", part=Fancy(rate=0.1)))
    # the form is fixed: a saved run's hash must mean the same in every later version
    canonical = b'{"rate":0.1,"type":"plain"}'
    assert sha256(Plain()) == hashlib.sha256(canonical).hexdigest()


def test_diff_names_the_leaves_that_differ():
    old = Run(name="a", part=Plain())
    assert diff(old, Run(name="a", part=Plain())) == []
    assert diff(old, old.replace(steps=5, sizes=Sizes(num_heads=2))) == [
        "steps: 100 -> 5",
        "sizes.num_heads: 4 -> 2",
    ]
    assert diff(old, old.replace(part=Fancy(rate=0.1))) == [
        "part.type: 'plain' -> 'fancy'",
        "part.beta: absent -> 0.9",
    ]


def test_describe_gives_every_leaf_its_meaning():
    rows = {path: (value, doc) for path, value, doc in describe(FULL)}
    assert rows["sizes.num_heads"] == (4, "heads")
    assert rows["part.type"] == ("fancy", "The fancy part.")
    assert rows["parts.1.beta"] == (0.9, "how slow")
    assert rows["files"][0] == list(FULL.files)
    assert rows["from"] == ("a", "a field that is a keyword")
    assert all(doc for _, doc in rows.values())


def test_settings_say_where_each_value_came_from(tmp_path):
    write(tmp_path, "steps: 4\nsizes: {hidden_size: 8}", "low.yaml")
    text = "include: low.yaml\nname: a\npart:\n  type: fancy\n  beta: 0.5"
    resolved = load(
        write(tmp_path, text), Run, ["part.rate=2", "weights.x=1", "sizes={num_heads: 2}"]
    )
    found = {s.path: (s.value, s.source.replace(f"{tmp_path}/", "")) for s in settings(resolved)}
    assert found["name"] == ("a", "run.yaml:2")
    assert found["steps"] == (4, "low.yaml:1")
    assert found["sizes.hidden_size"] == (8, "low.yaml:2")
    assert found["sizes.num_heads"] == (2, "command line")
    assert found["part.type"] == ("fancy", "run.yaml:4")
    assert found["part.beta"] == (0.5, "run.yaml:5")
    assert found["part.rate"] == (2.0, "command line")
    assert found["weights"] == ({"x": 1.0}, "command line")
    assert found["every"] == (None, "default")


def test_marks_of_a_replaced_mapping_are_forgotten(tmp_path):
    path = write(tmp_path, "name: a\npart:\n  type: fancy\n  rate: 0.5")
    resolved = load(path, Run, ["part.type=plain"])
    assert {s.path: s.source for s in settings(resolved)}["part.rate"] == "default"


def test_overrides_read_the_right_side_as_yaml():
    values = read_overrides(["a.b=1e-3", "a.c=no", "d={x: [1]}", "e=", "f='3'"]).values
    assert values == {"a": {"b": 0.001, "c": "no"}, "d": {"x": [1]}, "e": None, "f": "3"}


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n",
        "a\r\nb",
        "\x85a",
        "a\u2028b",
        "\0",
        "\x1b[0m",
        " a\n b",
        "y",
        "N",
        "0o17",
        "on",
        "1:30",
    ],
)
def test_dumped_text_is_read_back_unchanged(text: str) -> None:
    """Also by readers of YAML 1.1, and by those that take `y` for true and 0o17 for a number."""
    from jaxlm.core.config_yaml import dump_yaml

    first, second = yaml.safe_load_all(dump_yaml({"a": text}, {"b": text}))
    assert (first, second) == ({"a": text}, {"b": text})
    if text.isalnum():
        assert dump_yaml({"a": text}) == f"a: '{text}'\n"
