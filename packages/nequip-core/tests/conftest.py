"""A compiled model of a few lines, made once a session: there is no model in this layer."""

import json
import shutil
import warnings
import zipfile

import pytest
import torch

COMPILED_METADATA = {
    "model_dtype": "float64",
    "type_names": "Cu Au",
    "num_types": "2",
    "r_max": "4.5",
    "allow_tf32": "0",
    "nequip_aoti_inputs": "pos edge_index atom_types cell edge_cell_shift",
    "nequip_aoti_outputs": "atomic_energy total_energy forces stress",
    "nequip_torch_version": torch.__version__,
    "nequip_core_version": "0.2.0",
    "nequip_target": "ase",
}


class Springs(torch.nn.Module):
    """Every atom is tied to the origin; takes and returns the fields of target ase."""

    def forward(self, pos, edge_index, atom_types, cell, edge_cell_shift):
        energy = 0.5 * (pos * pos).sum(1, keepdim=True) + atom_types.unsqueeze(1)
        total = energy.sum().view(1, 1) + 0.0 * (edge_index.sum() + edge_cell_shift.sum())
        return energy, total, -pos, 0.0 * cell


@pytest.fixture(scope="session")
def springs(tmp_path_factory):
    """The model above as ``springs.nequip.pt2``."""
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    path = tmp_path_factory.mktemp("compiled") / "springs.nequip.pt2"
    atoms, edges = torch.export.Dim("atoms", min=2), torch.export.Dim("edges", min=2)
    double = {"dtype": torch.float64}
    inputs = (
        torch.ones(7, 3, **double),
        torch.zeros(2, 9, dtype=torch.int64),
        torch.zeros(7, dtype=torch.int64),
        torch.eye(3, **double).unsqueeze(0),
        torch.zeros(9, 3, **double),
    )
    shapes = ({0: atoms}, {1: edges}, {0: atoms}, None, {0: edges})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler stack warns of itself
        program = torch.export.export(Springs(), inputs, dynamic_shapes=shapes)
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": COMPILED_METADATA},
        )
    return path


@pytest.fixture
def edited(springs, tmp_path):
    """Copier of the compiled model with other metadata: ``edited(r_max="3")``, None removes."""

    def write(name="edited.nequip.pt2", **changes):
        path = tmp_path / name
        with zipfile.ZipFile(springs) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.namelist():
                content = old.read(member)
                if member.endswith("_metadata.json"):
                    metadata = {**json.loads(content), **changes}
                    metadata = {key: text for key, text in metadata.items() if text is not None}
                    content = json.dumps(metadata).encode()
                new.writestr(member, content)
        return path

    return write
