"""The documented fixtures of extension tests; a ``conftest.py`` executes this file.

``exec(compile(Path(CONFTEST_PATH).read_text(), CONFTEST_PATH, "exec"))``
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nequip_core.frames import Frame, batched_from_list
from nequip_model.testing.irreps_debug import override_irreps_debug
from nequip_model.testing.structures import (
    acetaldehyde,
    bulk_copper,
    diamond_carbon,
    mixed_frames,
)

__all__ = [
    "CH3CHO",
    "CH3CHO_no_typemap",
    "Cu_bulk",
    "atomic_batch",
    "default_dtype",
    "diamond_carbon_frame",
    "irreps_debug",
    "model_dtype",
    "molecules",
    "nequip_dataset",
    "temp_data",
]

_TYPE_NAMES = ("H", "C", "O")
_R_MAX = 4.0


@pytest.fixture(scope="session", params=["float32", "float64"])
def model_dtype(request: pytest.FixtureRequest) -> str:
    """Dtype of the weights of the models under test."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def default_dtype() -> Iterator[torch.dtype]:
    """Float64 as torch's default dtype while the tests run: frames are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture(scope="session", autouse=True)
def irreps_debug() -> Iterator[None]:
    """Every graph module checks its output against the irreps it states."""
    with override_irreps_debug(True):
        yield


@pytest.fixture(scope="session")
def temp_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that lives as long as the tests run."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def CH3CHO() -> Frame:  # noqa: N802 - documented name
    """An acetaldehyde molecule of types H, C, O."""
    return acetaldehyde(_TYPE_NAMES, _R_MAX)


@pytest.fixture(scope="session")
def CH3CHO_no_typemap(CH3CHO: Frame) -> Frame:  # noqa: N802 - documented name
    """The same with atomic numbers instead of types."""
    frame = {key: value for key, value in CH3CHO.items() if key != "atom_types"}
    frame["atomic_numbers"] = torch.tensor([1, 6, 8])[CH3CHO["atom_types"]]
    return frame


@pytest.fixture(scope="session")
def Cu_bulk() -> Frame:  # noqa: N802 - documented name
    """A rattled cell of copper, 4 atoms of type 0."""
    return bulk_copper(_R_MAX, rattle=0.05)


@pytest.fixture(scope="session", name="diamond_carbon")
def diamond_carbon_frame() -> Frame:
    """A rattled cell of diamond, 8 atoms of type 1, carbon."""
    return diamond_carbon(_R_MAX, rattle=0.05, atom_type=_TYPE_NAMES.index("C"))


@pytest.fixture(scope="session")
def molecules() -> list[Frame]:
    """Two molecules of types H, C, O."""
    return [acetaldehyde(_TYPE_NAMES, _R_MAX), mixed_frames(_TYPE_NAMES, _R_MAX)[1]]


@pytest.fixture(scope="session")
def nequip_dataset() -> list[Frame]:
    """A crystal, a cluster and a slab of types H, C, O: a data set is a sequence of frames."""
    return mixed_frames(_TYPE_NAMES, _R_MAX)


@pytest.fixture(scope="session")
def atomic_batch(nequip_dataset: list[Frame]) -> Frame:
    """Those frames as one batch."""
    return batched_from_list(nequip_dataset)
