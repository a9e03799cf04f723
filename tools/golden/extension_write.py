"""Write tests/golden/extension/allegro.npz with the reference implementation.

Run where ``nequip==0.19.1`` and ``nequip-allegro==0.8.3`` are installed beside nequip-core:
``python tools/golden/extension_write.py``. The file holds, for each case of ``cases.json``, the
weights ``<case>/state/<name>``, and the outputs ``<case>/out/<field>`` for the frame ``frame/<field>``.
"""  # noqa: E501

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np

from nequip_core.synthetic import synthetic_frame

FOLDER = Path(__file__).parents[2] / "tests" / "golden" / "extension"
FIELDS = ("atomic_energy", "total_energy", "forces", "virial", "stress")


def main() -> None:
    """Build every case, and write its weights and outputs."""
    cases = json.loads((FOLDER / "cases.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference's own
        from allegro.model import AllegroModel
        from nequip.utils.global_state import set_global_state

        set_global_state()
    shared = cases["shared"]
    frame = synthetic_frame(shared["type_names"], shared["r_max"])
    tensors = {f"frame/{field}": value for field, value in frame.items()}
    for name, changes in cases["cases"].items():
        model = AllegroModel(**{**shared, **changes}).eval()
        state = model.state_dict()
        out = model({field: value.clone() for field, value in frame.items()})
        tensors |= {f"{name}/state/{key}": value for key, value in state.items()}
        tensors |= {f"{name}/out/{field}": out[field] for field in FIELDS}
    arrays = {key: value.detach().numpy() for key, value in tensors.items()}
    np.savez_compressed(FOLDER / "allegro.npz", **arrays)


if __name__ == "__main__":
    main()
