"""Every import of packaged code is followed without running it; the chain to a break is shown."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import PackagingError
from nequip_package.import_chain import CodeWalk, walk_code
from nequip_package.import_statements import import_statements
from nequip_package.rules import collect_rules
from nequip_package.sources import SourceFinder, demangled

Write = Callable[..., None]
RULES = PackagingRules(internal=("walked",), external=("numpy", "absent_gpu"), mock=("drawing",))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return a function that writes modules of the package `walked`; nothing imports them."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "walked").mkdir()

    def write(**modules: str) -> None:
        for name, text in modules.items():
            (tmp_path / "walked" / f"{name}.py").write_text(textwrap.dedent(text))
        (tmp_path / "walked" / "__init__.py").touch()
        importlib.invalidate_caches()

    yield write
    assert not any(name.startswith("walked") for name in sys.modules), "the walk has imported it"


def walk(rules: PackagingRules = RULES) -> CodeWalk:
    return walk_code({"walked.model": "model 'm'"}, rules)


def reasons(found: CodeWalk) -> dict[str, str]:
    return {problem.module: problem.reason for problem in found.problems}


def test_imports_are_followed_into_functions_and_submodules(write: Write) -> None:
    write(
        model="from . import layers\nfrom .layers import deep\nimport numpy as np\n",
        layers="def f():\n    from walked.kernel import run\n    return run\n\ndeep = 1\n",
        kernel="import absent_gpu.language\nfrom drawing import line\n",
    )
    found = walk()
    assert found.problems == []
    assert set(found.sources) == {"walked.model", "walked.layers", "walked.kernel"}
    assert found.external == {"numpy", "absent_gpu.language"}
    assert found.mock == {"drawing"}
    assert "walked.layers" in found.on_load
    assert "walked.kernel" not in found.on_load


def test_undeclared_import_has_its_chain_and_the_way_out(write: Write) -> None:
    write(model="from .layers import f\n", layers="import some_library\n\ndef f(): ...\n")
    found = walk()
    assert found.problems[0].chain == (
        "<model 'm'>",
        "walked.model",
        "walked.layers",
        "some_library",
    )
    with pytest.raises(PackagingError) as caught:
        found.require_packageable("this model")
    text = str(caught.value)
    assert "the code of this model cannot be archived" in text
    assert "some_library: is declared neither internal nor external nor mock" in text
    assert "<model 'm'> -> walked.model -> walked.layers -> some_library" in text
    assert "register_libraries_as_external_for_packaging" in text


def test_every_broken_import_is_named_at_once(write: Write) -> None:
    write(model="import first_library\n\ndef f():\n    import second_library\n")
    assert set(reasons(walk())) == {"first_library", "second_library"}


def test_internal_module_that_does_not_exist_is_a_problem(write: Write) -> None:
    write(model="from walked.gone import f\n")
    assert reasons(walk()) == {"walked.gone": "does not exist here"}


def test_source_that_is_no_python_is_a_problem(write: Write) -> None:
    write(model="from .broken import f\n", broken="def f(:\n")
    assert "is not valid Python" in reasons(walk())["walked.broken"]


def test_optional_import_that_is_absent_is_left_out_and_told(write: Write) -> None:
    write(model="try:\n    import absent_library\nexcept ImportError:\n    absent_library = None\n")
    found = walk()
    assert found.problems == []
    assert found.skipped == {"absent_library": "walked.model, line 2"}


def test_optional_import_that_is_installed_must_be_declared(write: Write) -> None:
    write(model="try:\n    import pytest\nexcept ImportError:\n    pytest = None\n")
    assert set(reasons(walk())) == {"pytest"}


def test_imports_for_type_checkers_do_not_count(write: Write) -> None:
    write(
        model="""
        import typing
        if typing.TYPE_CHECKING:
            import some_library
        else:
            import numpy
        """
    )
    found = walk()
    assert found.problems == []
    assert found.external == {"typing", "numpy"}


def test_compiled_module_must_be_external(write: Write, tmp_path: Path) -> None:
    write(model="from . import fast\n")
    (tmp_path / "walked" / f"fast{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    assert "is compiled code" in reasons(walk())["walked.fast"]


def test_name_of_a_packaged_module_loses_its_mark() -> None:
    assert demangled("<torch_package_12>.walked.model") == "walked.model"
    assert demangled("walked.model") == "walked.model"


def test_import_statements_say_when_they_run() -> None:
    text = """
    import a.b
    from ..c import d as e
    class K:
        import f
    try:
        import g
    except ImportError:
        import h
    try:
        import i
    finally:
        pass
    if a:
        import j
    def k():
        __import__("l")
        try:
            from m import *
        except Exception:
            pass
    """
    found = {
        statement.module: statement
        for statement in import_statements(ast.parse(textwrap.dedent(text)), "p.q.r")
    }
    assert list(found) == ["a.b", "p.q.c", "f", "g", "h", "i", "j", "l", "m"]
    assert (found["a.b"].bound_to, found["p.q.c"].bound_to) == ("a", "e")
    assert {name for name, item in found.items() if not item.on_load} == {"l", "m"}
    assert {name for name, item in found.items() if item.optional} == {"g", "h", "m"}
    assert {name for name, item in found.items() if item.conditional} == {"g", "h", "j", "m"}
    assert found["m"].name == "*"


def test_installed_sources_are_found_without_their_packages(write: Write) -> None:
    write(model="x = 1\n")
    finder = SourceFinder()
    package = finder.installed("walked")
    assert package is not None and package.is_package
    assert finder.installed("walked.model").text == "x = 1\n"  # type: ignore[union-attr]
    assert finder.installed("walked.none") is None
    assert finder.installed("no_such_package.part") is None
    assert not finder.is_module("walked.model.x")


@pytest.mark.parametrize("module", ["nequip_model.builder", "e3nn.o3"])
def test_what_extensions_import_from_us_and_e3nn_has_a_rule(module: str) -> None:
    """A model file may hold builder and modules together, and import e3nn by its public names."""
    assert walk_code({module: "model 'm'"}, collect_rules()).problems == []
