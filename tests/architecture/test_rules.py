"""Every rule of the house can fail: each is shown a source that breaks it and one that keeps it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import architecture_rules as rules

TABLE = {"config": (), "data": ("config",), "model": ("config",), "train": ("config", "data"), "api": ("train", "data")}
DATA_INIT = '"""Data."""\nfrom tunesmith.data.read import read\n__all__ = ["read"]\n'


def layers(sources: Mapping[str, str]) -> list[str]:
    return [str(violation) for violation in rules.layer_violations(rules.parse(sources), TABLE)]


def forbidden(source: str) -> list[str]:
    return [violation.message for violation in rules.forbidden_violations(rules.parse({"data/read.py": source}))]


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        (
            "config/load.py",
            "from tunesmith.data import read",
            "tunesmith.config.load:1: 'config' may not import 'data'",
        ),
        (
            "config/load.py",
            "def f():\n    import tunesmith.train",
            "tunesmith.config.load:2: 'config' may not import 'train'",
        ),
        (
            "model/load.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tunesmith.data import read",
            "tunesmith.model.load:3: 'model' may not import 'data'",
        ),
        ("model/load.py", "from ..data import read", "tunesmith.model.load:1: 'model' may not import 'data'"),
        ("model/__init__.py", "from ..data import read", "tunesmith.model:1: 'model' may not import 'data'"),
        ("model/load.py", "from .. import data", "tunesmith.model.load:1: 'model' may not import 'data'"),
        ("model/load.py", "from tunesmith import data", "tunesmith.model.load:1: 'model' may not import 'data'"),
        ("model/load.py", "from tunesmith import anything", "tunesmith.model.load:1: 'model' may not import 'api'"),
        ("model/load.py", "import tunesmith", "tunesmith.model.load:1: 'model' may not import 'api'"),
        (
            "model/load.py",
            "import importlib\nimportlib.import_module('tunesmith.data')",
            "tunesmith.model.load:2: 'model' may not import 'data'",
        ),
        ("__init__.py", "from tunesmith.data import read", "tunesmith:1: 'tunesmith' may not import 'data'"),
        ("errors.py", "from tunesmith.types import Record", "tunesmith.errors:1: 'errors' may not import 'types'"),
        (
            "train/loop.py",
            "from tunesmith.data.read import read",
            "tunesmith.train.loop:1: import the part: from tunesmith.data import ..., not tunesmith.data.read",
        ),
        (
            "train/loop.py",
            "from tunesmith.data import secret",
            "tunesmith.train.loop:1: 'secret' is not in __all__ of tunesmith.data",
        ),
        ("shop/till.py", "", "tunesmith.shop.till:1: part 'shop' is not in the table of layers"),
    ],
)
def test_a_broken_layer_is_seen(path: str, source: str, message: str) -> None:
    assert layers({"data/__init__.py": DATA_INIT, "data/read.py": "", path: source}) == [message]


def test_what_the_table_allows_passes() -> None:
    sources = {
        "__init__.py": "from tunesmith.api import train",
        "errors.py": "",
        "optional.py": "from tunesmith.errors import SettingsError",
        "data/__init__.py": DATA_INIT,
        "data/read.py": "from tunesmith.data.cell import text\nfrom tunesmith.errors import DataError",
        "data/cell.py": "import csv",
        "train/loop.py": "from tunesmith.data import read\nfrom tunesmith import __version__, data",
        "model/load.py": "def f():\n    from tunesmith import config",
        "config/__init__.py": "",
    }
    assert layers(sources) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"data/a.py": "from tunesmith.data.b import x", "data/b.py": "def f():\n    from tunesmith.data.a import y"},
        {"data/a.py": "from tunesmith.data import b", "data/b.py": "from . import a"},
        {"data/__init__.py": 'from .a import x\n__all__ = ["x"]', "data/a.py": "from tunesmith.data import x"},
        {"data/a.py": "from .b import x", "data/b.py": "from .c import x", "data/c.py": "from .a import x"},
    ],
)
def test_a_cycle_is_seen(sources: dict[str, str]) -> None:
    assert any(
        "import cycle" in str(v) for v in rules.cycle_violations(rules.parse({"data/__init__.py": "", **sources}))
    )


def test_a_diamond_is_no_cycle() -> None:
    sources = {
        "data/__init__.py": "from .a import x",
        "data/a.py": "from .b import x\nfrom .c import x",
        "data/b.py": "from .d import x",
        "data/c.py": "from .d import x",
        "data/d.py": "",
    }
    assert list(rules.cycle_violations(rules.parse(sources))) == []


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import bitsandbytes", 1),
        ("def f():\n    from gguf import GGUFWriter", 2),
        ("import importlib\nimportlib.import_module('gguf')", 2),
        ("import importlib\nname = 'gguf'\nimportlib.import_module(name)", 3),
    ],
)
def test_an_optional_package_is_seen(source: str, line: int) -> None:
    found = list(rules.package_violations(rules.parse({"model/load.py": source}), {"torch"}))
    assert [violation.line for violation in found] == [line]
    assert list(rules.package_violations(rules.parse({"optional.py": source}), {"torch"})) == []


def test_lazy_names_of_a_package_pass() -> None:
    lazy = "from importlib import import_module\nimport_module(f'{__name__}.{HOME[name]}')"
    assert list(rules.package_violations(rules.parse({"data/__init__.py": lazy}), set())) == []
    assert len(list(rules.package_violations(rules.parse({"data/read.py": lazy}), set()))) == 1
    elsewhere = lazy.replace(".{HOME", "{HOME")
    assert len(list(rules.package_violations(rules.parse({"data/__init__.py": elsewhere}), set()))) == 1


def test_a_lazy_name_hidden_by_its_file_is_seen() -> None:
    lazy = "__all__ = ['encode', 'Report']\ndef __getattr__(name): ..."
    files = {"data/__init__.py": lazy, "data/encode.py": ""}
    assert [v.message for v in rules.lazy_name_violations(rules.parse(files))] == [
        "'encode' would be the file encode.py, not what it defines"
    ]
    files["data/__init__.py"] = "from tunesmith.data.encode import encode\n" + lazy
    assert list(rules.lazy_name_violations(rules.parse(files))) == []


def test_base_and_standard_packages_pass() -> None:
    source = "import torch.nn as nn\nfrom json import loads\nimport tunesmith.errors\nfrom . import other"
    assert list(rules.package_violations(rules.parse({"model/load.py": source}), {"torch"})) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path)",
        "from torch import load\nload(path)",
        "import torch\ntorch.save(model, path)",
        "import torch\nf = torch.load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "load(path, weights_only=False)",
        "load(path, trust_remote_code=True)",
        "load(path, trust_remote_code=flag)",
        "arguments = {'trust_remote_code': True}",
        "eval('1 + 1')",
        "exec(text)",
        "compile(text, 'x', 'exec')",
        "__import__('os')",
        "import yaml\nyaml.load(text)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import os\nos.system(text)",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    ...",
        "for x in y:\n    try:\n        f()\n    except Exception as error:\n        continue",
        "import contextlib\nwith contextlib.suppress(Exception):\n    f()",
    ],
)
def test_what_is_forbidden_is_seen(source: str) -> None:
    assert len(forbidden(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "class Settings:\n    eval: int = 3",
        "import re\nre.compile('x')",
        "import yaml\nyaml.safe_load(text)",
        "from safetensors.torch import load_file, save_file\nsave_file(tensors, path)",
        "load(path, trust_remote_code=False)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "try:\n    f()\nexcept Exception as error:\n    raise RuntimeError from error",
        "import contextlib\nwith contextlib.suppress(FileNotFoundError):\n    f()",
    ],
)
def test_what_is_allowed_passes(source: str) -> None:
    assert forbidden(source) == []


def budget(path: str, source: str) -> list[str]:
    return [violation.message for violation in rules.budget_violations(rules.parse({path: source}))]


def function(lines: int) -> str:
    return "def fit():\n" + "    x = 1\n" * (lines - 1)


def test_budgets_have_an_edge() -> None:
    assert budget("data/a.py", "x = 1\n" * 400) == []
    assert budget("data/a.py", "x = 1\n" * 401) == ["the file has 401 lines, 400 are allowed"]
    assert budget("data/a.py", function(60)) == []
    assert budget("data/a.py", function(61)) == ["fit has 61 lines, 60 are allowed"]
    assert budget("train/loop.py", function(61)) == []
    assert budget("data/a.py", "def f(self, a, b, c, d, *, e, f, g, **h): ...") == []
    assert budget("data/a.py", "def f(self, a, b, c, d, *i, e, f, g, **h): ...") == [
        "f has 9 parameters, 8 are allowed"
    ]


def test_an_error_without_a_fix_is_seen() -> None:
    def found(source: str) -> list[str]:
        return [violation.message for violation in rules.error_violations(rules.parse({"data/a.py": source}))]

    assert found("raise DataError('no rows', cause='empty')") == ["DataError without a fix: what to change?"]
    for more in ("fix='write some'", "problems=several", "**more"):
        assert found(f"raise DataError('no rows', {more})") == []
    assert found("raise ValueError('a bug')") == []


def test_a_missing_docstring_is_seen() -> None:
    found = list(rules.docstring_violations(rules.parse({"data/a.py": "x = 1", "data/b.py": '"""Its job."""'})))
    assert [violation.module for violation in found] == ["data.a"]
