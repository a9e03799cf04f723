"""A C++ compiler that is broken or too old is found out before the model is traced."""

import shutil

import pytest

from nequip_compile.cxx import require_modern_compiler
from nequip_core.errors import CompileError

COMPILERS = {
    "old": "echo \"error: unrecognized command line option '-std=c++20'\" >&2; exit 1",
    "broken": "echo 'internal compiler error' >&2; exit 1",
    "silent": "exit 7",
}


@pytest.mark.parametrize("script", COMPILERS.values(), ids=COMPILERS)
def test_a_compiler_that_cannot_is_named_with_its_reason(tmp_path, monkeypatch, script):
    compiler = tmp_path / "g++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(CompileError, match=r"'g\+\+ 4' does not compile C\+\+20 \((e|i)"):
        require_modern_compiler("g++ 4")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiler_that_can_is_accepted(monkeypatch):
    monkeypatch.setenv("CXX", "g++")
    require_modern_compiler("g++")
