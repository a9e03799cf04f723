"""The commands, the Python and the input of ``docs/integrations/lammps.md``, run one by one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TEXT = (Path(__file__).parents[4] / "docs" / "integrations" / "lammps.md").read_text()
BLOCKS = re.findall(r"```(bash|python|lammps)\n(.*?)```", TEXT, flags=re.DOTALL)


def test_tutorial_runs_from_the_first_command_to_the_last(package, tmp_path):
    shutil.copy(package, tmp_path / "alloy.nequip.zip")
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "NEQUIP_TRUST_CODE": "1"}
    printed, script = "", ""
    for kind, block in BLOCKS:
        if kind == "lammps":
            (tmp_path / "in.lmp").write_text(block)
            continue
        if kind == "python":
            # Later parts use what earlier ones have made.
            script += block
            commands = [[sys.executable, "-c", script]]
        else:
            commands = [["bash", "-c", line] for line in block.splitlines() if line]
        for command in commands:
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                check=False, timeout=1800,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            printed += done.stdout
    assert [kind for kind, _ in BLOCKS].count("bash") == 3
    # The plugin on one and on two processes, and no plugin at all: the same 50 steps.
    last = re.findall(r"^ +50 .*$", printed, flags=re.MULTILINE)
    assert len(last) == 3
    energies = [float(line.split()[2]) for line in last]
    assert max(energies) - min(energies) < 1e-5
    # Two parts of the Python are energies of one structure.
    alone = re.findall(r"^-\d+\.\d+$", printed, flags=re.MULTILINE)
    assert len(alone) >= 2
    assert abs(float(alone[0]) - float(alone[-1])) < 1e-5
