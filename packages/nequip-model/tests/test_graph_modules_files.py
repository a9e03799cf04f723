"""Download and unpacking for data sets of extensions."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from nequip_core.errors import FileFormatError, MissingFileError
from nequip_model.graph_modules.files import download_url, extract_tar, extract_zip


def test_a_file_is_downloaded_once(tmp_path):
    source = tmp_path / "data.txt"
    source.write_text("first")
    url = source.as_uri()
    path = download_url(url, str(tmp_path / "new" / "folder"))
    assert path == str(tmp_path / "new" / "folder" / "data.txt")
    source.write_text("second")
    assert download_url(url, str(tmp_path / "new" / "folder")) == path
    assert (tmp_path / "new" / "folder" / "data.txt").read_text() == "first"
    other = download_url(url, str(tmp_path), "other.txt")
    assert (tmp_path / "other.txt").read_text() == "second"
    assert other.endswith("other.txt")


def test_a_failed_download_leaves_no_file(tmp_path):
    missing = (tmp_path / "nothing.txt").as_uri()
    with pytest.raises(MissingFileError, match="cannot download 'file:"):
        download_url(missing, str(tmp_path / "target"))
    assert list((tmp_path / "target").iterdir()) == []
    with pytest.raises(MissingFileError, match="give a filename"):
        download_url("https://example.org/", str(tmp_path))


def test_archives_are_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inside/a.txt", "zip")
    extract_zip(str(tmp_path / "a.zip"), str(tmp_path / "zip"))
    assert (tmp_path / "zip" / "inside" / "a.txt").read_text() == "zip"
    for mode, name in (("gz", "a.tar.gz"), ("xz", "a.tar.xz")):
        with tarfile.open(tmp_path / name, f"w:{mode}") as archive:
            entry = tarfile.TarInfo("a.txt")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"tar"))
        extract_tar(str(tmp_path / name), str(tmp_path / mode), mode=f"r:{mode}")
        assert (tmp_path / mode / "a.txt").read_text() == "tar"


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("../outside.txt")
        archive.addfile(entry, io.BytesIO(b""))
    with pytest.raises(FileFormatError, match="outside"):
        extract_tar(str(tmp_path / "bad.tar.gz"), str(tmp_path / "folder"))
    assert not (tmp_path / "outside.txt").exists()


def test_files_that_are_no_archives_are_named(tmp_path):
    text = tmp_path / "text"
    text.write_text("text")
    with pytest.raises(FileFormatError, match="is not a zip archive"):
        extract_zip(str(text), str(tmp_path))
    with pytest.raises(FileFormatError, match="with mode 'r:gz'"):
        extract_tar(str(text), str(tmp_path))
    for extract in (extract_zip, extract_tar):
        with pytest.raises(MissingFileError, match="no archive"):
            extract(str(tmp_path / "nothing"), str(tmp_path))
