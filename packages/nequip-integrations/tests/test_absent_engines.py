"""An engine that is not installed: modules import, and using them gives one line with the cure."""

import subprocess
import sys

import pytest

USES = {
    "torch_sim": (
        "from nequip_integrations.torchsim import NequIPTorchSimCalc as use; use('m.nequip.zip')",
        "torch-sim does not import .*pip install 'nequip-integrations[torchsim]'",
    ),
    "openmm": (
        "from nequip_integrations.openmm import NequIPForce as use; use('m.nequip.zip')",
        "OpenMM does not import .*pip install 'nequip-integrations[openmm]'",
    ),
    "openmmml": (
        "from nequip_integrations.openmm_ml import register; register()",
        "OpenMM-ML does not import .*pip install 'nequip-integrations[openmm]'",
    ),
    "ipi": (
        "from nequip_integrations.ipi import NequIPDriver as use; use('m.nequip.zip', ['H'])",
        "i-PI does not import .*pip install 'nequip-integrations[ipi]'",
    ),
    "ase": (
        "from nequip_integrations.ase import NequIPCalculator",
        "ASE does not import .*pip install 'nequip-integrations[ase]'",
    ),
}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("engine", USES)
def test_absent_engine_is_one_message_with_the_command(engine):
    use, message = USES[engine]
    code = f"""
import re, sys
sys.modules[{engine!r}] = None
from nequip_core.errors import MissingDependencyError
try:
    {use}
except MissingDependencyError as error:
    text = str(error)
    assert "\\n" not in text and re.search({message.replace("[", chr(92) + "[")!r}, text), text
else:
    sys.exit("no error")
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_absent_i_pi_is_one_line_of_the_command(tmp_path):
    code = f"""
import sys
sys.modules["ipi"] = None
from nequip_integrations.command_ipi import main
sys.exit(main(["m.nequip.zip", {str(tmp_path / "init.xyz")!r}]))
"""
    result = run(code)
    assert result.returncode == 1
    assert result.stderr.startswith("error: i-PI does not import")
    assert len(result.stderr.splitlines()) == 1
