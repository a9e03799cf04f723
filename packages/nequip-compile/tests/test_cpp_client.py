"""A program in C++, linked with libtorch alone, runs both kinds of files."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from nequip_core.compile_targets import PAIR_NEQUIP
from nequip_core.synthetic import synthetic_frame

SOURCE = Path(__file__).with_name("stock_client.cpp")
TORCH = Path(torch.__file__).parent
INCLUDES = ("include", "include/torch/csrc/api/include")
COMPILER = shutil.which("g++")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="compiles a program with g++"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled as an engine's pair style would be; it takes most of a minute."""
    path = tmp_path_factory.mktemp("program") / "stock_client"
    abi = int(torch.compiled_with_cxx11_abi())
    words = [
        *(str(COMPILER), "-std=c++20", "-O0", "-w", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"),
        *(f"-I{TORCH / folder}" for folder in INCLUDES),
        *(str(SOURCE), "-o", str(path)),
        *(f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-Wl,--no-as-needed"),
        *("-ltorch", "-ltorch_cpu", "-lc10"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def script(single_precision, tmp_path_factory):
    """The model of `for_lammps` as TorchScript."""
    from nequip_compile.torchscript import compile_model

    path = tmp_path_factory.mktemp("script") / "pair.nequip.pth"
    compile_model(single_precision, path)
    return path


@pytest.mark.parametrize("file", ["for_lammps", "script"])
@pytest.mark.parametrize("atoms", [1, 30])
def test_program_gets_the_numbers_of_the_model(
    file, atoms, program, single_precision, request, tmp_path
):
    model = single_precision
    frame = synthetic_frame(model.type_names, model.r_max, num_atoms=atoms, seed=41)
    torch.save({name: frame[name] for name in PAIR_NEQUIP.inputs}, tmp_path / "inputs.pt")
    paths = [request.getfixturevalue(file), tmp_path / "inputs.pt", tmp_path / "outputs.pt"]
    command = [str(program), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # C++ writes dictionaries with a type tag, which the restricted reader does not know.
    found = torch.load(tmp_path / "outputs.pt", weights_only=False)
    wanted = model(dict(frame))
    for field in PAIR_NEQUIP.outputs:
        scale = max(1.0, float(wanted[field].abs().max()))
        assert found[field].dtype == torch.float64
        torch.testing.assert_close(found[field], wanted[field], rtol=0.0, atol=1e-4 * scale)
    # r_max, number of types, TF32, cutoffs by centre and neighbor.
    assert found["metadata"].tolist() == [4.0, 2.0, 0.0, 4.0, 3.5, 3.0, 3.0]
