"""Lines for each step, and a bar where somebody sees it."""

from __future__ import annotations

import io
from pathlib import Path

from nequip_package.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_say_what_starts_and_when() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    progress("loading a.ckpt")
    clock.now = 12.34
    progress("archiving")
    progress.note("look at this")
    assert stream.getvalue() == (
        "[  0.0 s] loading a.ckpt ...\n[ 12.3 s] archiving ...\nnote: look at this\n"
    )


def test_bar_is_drawn_on_a_terminal_and_removed() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, clock)
    progress("hashing")
    progress.advance(1, 4)
    assert "%" not in stream.getvalue(), "a short step shows no bar"
    clock.now = 1.0
    progress.advance(2, 4)
    assert stream.getvalue().endswith("  50 %")
    before = stream.getvalue()
    clock.now = 1.01
    progress.advance(3, 4)
    assert stream.getvalue() == before, "not redrawn at every step"
    progress.advance(4, 4)
    assert stream.getvalue().endswith(" 100 %")
    progress("next")
    last = stream.getvalue().rpartition("\r")[2]
    assert last == "[  1.0 s] next ...\n"


def test_no_bar_in_a_log_file() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    clock.now = 10.0
    progress.advance(1, 2)
    progress.end()
    assert stream.getvalue() == ""


def test_written_file_is_named_with_its_size(tmp_path: Path) -> None:
    stream = io.StringIO()
    file = tmp_path / "a.nequip.zip"
    file.write_bytes(b"x" * 2400)
    Progress(stream, Clock()).written(file)
    assert stream.getvalue() == f"wrote {file} (2 kB)\n"
