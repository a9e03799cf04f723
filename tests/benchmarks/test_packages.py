"""Packaging against the reference in one run, on the same network with the same weights.

Commands are measured whole, as a user runs them: start of Python, imports, work.
"""

import subprocess
import sys
import warnings

import pytest
import torch

from nequip_core.archive.loading import load_package

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

BOTH = pytest.mark.parametrize("who", ["ours", "nequip 0.19.1"])
# Both distributions install a command of this name.
COMMANDS = {
    "ours": "from nequip_package.command import main",
    "nequip 0.19.1": "from nequip.scripts.package import main",
}


def run(*command, **options):
    """Run a command to its end; what it prints matters only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr


def packager(who, *arguments):
    """Run the command ``nequip-package`` of one of the two."""
    program = f"import sys; {COMMANDS[who]}; sys.exit(main(sys.argv[1:]))"
    run(sys.executable, "-W", "ignore", "-c", program, *map(str, arguments))


@pytest.fixture(scope="module")
def packages(checkpoints, tmp_path_factory):
    """One package of each."""
    folder = tmp_path_factory.mktemp("packages")
    made = {who: folder / f"{path.stem}.nequip.zip" for who, path in checkpoints.items()}
    for who, path in made.items():
        packager(who, "build", checkpoints[who], path)
    return made


@BOTH
def test_build(benchmark, checkpoints, tmp_path, who):
    benchmark.group = "nequip-package build"
    output = tmp_path / "model.nequip.zip"

    def build():
        output.unlink(missing_ok=True)
        packager(who, "build", checkpoints[who], output)

    benchmark.pedantic(build, rounds=3)
    benchmark.extra_info["bytes"] = output.stat().st_size


@BOTH
def test_info(benchmark, packages, who):
    benchmark.group = "nequip-package info"
    benchmark.pedantic(lambda: packager(who, "info", packages[who]), warmup_rounds=1, rounds=5)


def load_ours(path):
    return load_package(path, load="snapshot", trust_code=True).models


def load_theirs(path):
    from nequip.model import ModelFromPackage
    from nequip.utils.global_state import set_global_state

    before = torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_global_state()
        model = ModelFromPackage(str(path))
    torch.set_default_dtype(before)
    return model


@BOTH
def test_load(benchmark, packages, who):
    benchmark.group = "loading a package, in a running process"
    load = load_ours if who == "ours" else load_theirs
    benchmark.pedantic(lambda: load(packages[who]), warmup_rounds=1, rounds=5)
