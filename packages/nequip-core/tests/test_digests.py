"""Digests of files and of source code, and versions of what is installed."""

import hashlib
import io

import torch

from nequip_core.digests import file_digest, hash_file, source_digest
from nequip_core.distributions import distribution_version, installed_versions


def test_a_path_and_an_open_file_have_the_digest_of_their_content(tmp_path):
    content = b"some content" * 200_000
    (tmp_path / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert file_digest(tmp_path / "file") == file_digest(str(tmp_path / "file")) == expected
    assert file_digest(io.BytesIO(content)) == expected


def test_an_open_file_is_read_from_where_it_stands():
    stream = io.BytesIO(b"read already, not yet")
    stream.seek(len(b"read already, "))
    assert hash_file(stream) == (hashlib.sha256(b"not yet").hexdigest(), len(b"not yet"))


def test_every_module_of_a_package_counts_and_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "some_package_of_a_test"
    (package / "below").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "below" / "module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_digest(package.name)
    (package / "notes.txt").write_text("no source")
    assert source_digest(package.name) == before
    (package / "below" / "module.py").write_text("x = 2\n")
    changed = source_digest(package.name)
    (package / "below" / "module.py").rename(package / "below" / "renamed.py")
    assert len({before, changed, source_digest(package.name)}) == 3


def test_a_module_alone_has_a_digest_and_one_that_is_not_there_that_of_nothing(
    tmp_path, monkeypatch
):
    (tmp_path / "some_module_of_a_test.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert source_digest("some_module_of_a_test") == hashlib.sha256(b"x = 1\n").hexdigest()
    assert source_digest("no_such_module_of_a_test") == hashlib.sha256(b"").hexdigest()


def test_versions_are_those_of_what_is_installed():
    names = ("torch", "no-such-distribution", "nequip-core")
    assert list(installed_versions(names)) == ["torch", "nequip-core"]
    assert distribution_version("torch") == installed_versions(names)["torch"]
    # Before 2.8 a wheel from PyPI says its CUDA here, and does not in its metadata.
    assert torch.__version__.split("+")[0] == distribution_version("torch").split("+")[0]
    assert distribution_version("no-such-distribution") is None
