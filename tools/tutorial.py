"""Do what docs/train/tutorial.md says, and nothing else: its files, then its commands in order.

A page is a list of steps. A line "`name`:" before a block of code makes a file of that name. A
block of language ``console`` has commands, ``$ command``, each followed by what it prints: those
lines have to come, in this order, where numbers may be others and an ellipsis stands for any text.
A command whose first line is ``error: ...`` has to fail, with exit code 1. One that ends in
``# Ctrl-C`` and any text is interrupted after its third epoch. A block below the comment
"optional" runs only if it is asked for.

Usage: python tools/tutorial.py FOLDER [--figures] [--optional]

``--figures`` puts the figures that the commands have drawn beside the page.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "train" / "tutorial.md"
FIGURES = PAGE.parent / "figures"
OPTIONAL = "<!-- optional -->"
_BLOCK = re.compile(
    rf"(?P<optional>{OPTIONAL}\n)?(?:^`(?P<name>[\w./-]+)`:\n\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
_PICTURE = re.compile(r"!\[[^\]]*\]\(figures/([\w-]+)\.png\) *<!-- ([\w./-]+) -->")
_NUMBER = re.compile(r"[-+]?\d+(?:[.:]\d+)*(?:e[-+]?\d+)?")
_INTERRUPTED = re.compile(r"\s+# Ctrl-C.*$")
_LIMIT = 1800.0  # s, for one command on a busy machine
_LARGEST = 100_000  # bytes of a figure in the repository


@dataclass
class Step:
    """A file to write, or a command to run.

    Attributes:
        name: of the file; empty for a command.
        text: content of the file, or the command.
        expected: what the command prints.
        optional: whether it is skipped unless asked for.
    """

    name: str
    text: str
    expected: list[str] = field(default_factory=list)
    optional: bool = False


def steps(page: str) -> list[Step]:
    """Return what a page does, in order."""
    found = []
    for block in _BLOCK.finditer(page):
        optional = block["optional"] is not None
        if block["name"]:
            found.append(Step(block["name"], block["text"], optional=optional))
        elif block["language"] == "console":
            for line in block["text"].splitlines():
                if line.startswith("$ "):
                    found.append(Step("", line[2:], optional=optional))
                elif line.strip():
                    found[-1].expected.append(line)
    return found


def run(folder: Path, optional: bool = False) -> Iterator[tuple[Step, str]]:
    """Do everything in a folder; yield each step with what it printed.

    Raises:
        AssertionError: a command ended or printed otherwise than the page says.
    """
    for step in steps(PAGE.read_text()):
        if step.optional and not optional:
            continue
        printed = ""
        if step.name:
            (folder / step.name).write_text(step.text)
        else:
            printed = command(folder, step)
        yield step, printed


def command(folder: Path, step: Step) -> str:
    """Run a command in a folder, and return what it printed.

    Raises:
        AssertionError: it ended or printed otherwise than the page says.
    """
    fails = step.expected[:1] != [] and step.expected[0].startswith("error: ")
    text = _INTERRUPTED.sub("", step.text)
    interrupted = text != step.text
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.monotonic()
    with (folder / "printed.txt").open("w+") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {text}" if interrupted else text],
            cwd=folder,
            env={**os.environ, "PATH": scripts, "MPLBACKEND": "agg"},
            stdout=output,
            stderr=subprocess.STDOUT,
            # A shell lets its background jobs ignore Ctrl-C, and what they start as well.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            if interrupted:
                _wait_for_epochs(folder, process)
                process.send_signal(signal.SIGINT)
            code = process.wait(timeout=_LIMIT)
        finally:
            process.kill()
        output.seek(0)
        printed = output.read()
    if code != int(fails or interrupted):
        raise AssertionError(f"$ {step.text}\nexit code {code}\n{printed}")
    missing = absent(step.expected, printed)
    if missing is not None:
        raise AssertionError(f"$ {step.text}\nthe page shows:\n{missing}\nprinted is:\n{printed}")
    print(f"{time.monotonic() - started:6.1f} s  {step.text}", file=sys.stderr)
    return printed


def _wait_for_epochs(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run in the folder has logged its third epoch."""
    end = time.monotonic() + _LIMIT
    while process.poll() is None and time.monotonic() < end:
        for file in folder.glob("runs/*/metrics.jsonl"):
            if '"epoch": 2' in file.read_text():
                return
        time.sleep(0.1)


def absent(shown: list[str], printed: str) -> str | None:
    """Return the first shown line that is not printed after those before it, None if all are."""
    rest = iter(" ".join(line.split()) for line in printed.splitlines())
    for line in shown:
        pattern = re.compile(_pattern(" ".join(line.split())))
        if not any(pattern.fullmatch(found) for found in rest):
            return line
    return None


def _pattern(line: str) -> str:
    """Return a regular expression for a line with other numbers."""
    parts = line.split("…")
    return ".*".join(
        _NUMBER.pattern.join(re.escape(text) for text in _NUMBER.split(part)) for part in parts
    )


def pictures() -> dict[str, str]:
    """Return name -> the file that the page's commands write, for every figure of the page."""
    found = dict(_PICTURE.findall(PAGE.read_text()))
    if len(found) != PAGE.read_text().count("!["):
        raise ValueError(f"a figure of {PAGE.name} does not say which file of the commands it is")
    return found


def copy_figures(folder: Path) -> None:
    """Put the figures that the commands have written beside the page, with 64 colors each."""
    from PIL import Image

    for name, source in pictures().items():
        final = FIGURES / f"{name}.png"
        picture = Image.open(folder / source).convert("RGB")
        picture.quantize(64, dither=Image.Dither.NONE).save(final, optimize=True)
        if final.stat().st_size > _LARGEST:
            raise ValueError(f"{final} is larger than {_LARGEST} bytes")


def main(arguments: list[str]) -> None:
    """Run the page in a folder that does not exist yet."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True)
    for step, printed in run(folder, optional="--optional" in arguments):
        print(f"wrote {step.name}" if step.name else f"$ {step.text}\n{printed}")
    if "--figures" in arguments:
        copy_figures(folder)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1:])
