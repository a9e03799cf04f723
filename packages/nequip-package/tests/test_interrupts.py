"""A build that is killed at any moment leaves no package or a whole one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Forks a process that has all imports behind it, so that the signals hit the build itself. A build
# sends the signal to itself after a number of calls, so that the points do not depend on how fast
# the machine is. Prints, for each build: the signal, how it ended, and what lay in its folder.
DRIVER = """
import json, os, random, signal, sys
from pathlib import Path

import nequip_package.build, nequip_package.forms
from nequip_package.command import main

checkpoint, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def build(target, sent=None, point=-1):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    calls = 0
    def count_calls(frame, event, argument):
        nonlocal calls
        calls += 1
        if calls == point:
            os.kill(os.getpid(), sent)
    sys.setprofile(count_calls)
    code = main(["build", checkpoint, str(target)])
    sys.setprofile(None)
    if sent is None:
        target.with_name("calls").write_text(str(calls))
    sys.exit(code)  # an ordinary end, atexit included

(folder / "whole").mkdir()
target = folder / "whole" / "a.nequip.zip"
assert build(target) == 0
whole, calls = target.read_bytes(), int(target.with_name("calls").read_text())

points = random.Random(4)
found = []
for number in range(count):
    place = folder / str(number)
    place.mkdir()
    sent = (signal.SIGKILL, signal.SIGINT)[number % 2]
    status = build(place / "a.nequip.zip", sent, points.randint(1, calls))
    file = place / "a.nequip.zip"
    found.append({
        "signal": sent.name,
        "ended": os.waitstatus_to_exitcode(status),
        "is_whole": file.read_bytes() == whole if file.exists() else None,
        "left": sorted(str(path.relative_to(place)) for path in place.iterdir()),
    })
print(json.dumps(found))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to start builds quickly")
def test_build_killed_at_fifty_random_points_leaves_nothing_half_written(
    checkpoint: Path, package: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DRIVER, str(checkpoint), str(tmp_path), "50"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    runs = json.loads(result.stdout)
    assert len(runs) == 50
    assert all(run["is_whole"] in (None, True) for run in runs)
    interrupted = [run for run in runs if run["signal"] == "SIGINT"]
    for run in interrupted:
        assert run["left"] == ([] if run["is_whole"] is None else ["a.nequip.zip"])
        assert run["ended"] != 0 or run["is_whole"], "what did not succeed does not say so"
    # The points were spread over the build: some came in time, whatever the signal.
    for name in ("SIGKILL", "SIGINT"):
        assert sum(run["is_whole"] is None for run in runs if run["signal"] == name) >= 5
    assert any(run["left"] and run["is_whole"] is None for run in runs), "none hit the writing"


def test_interrupt_while_writing_keeps_the_older_package(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nequip_package.members as members
    from nequip_package.command import main

    target = tmp_path / "a.nequip.zip"
    target.write_text("older")

    def interrupt(path: Path, content: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(members, "write_archive", interrupt)
    assert main(["build", str(checkpoint), str(target)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.nequip.zip"]
    assert target.read_text() == "older"
