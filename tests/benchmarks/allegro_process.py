"""An Allegro network in a process of its own, one prediction or training step for each line.

    python allegro_process.py {ours|reference} {prediction|training step} "3 3 3"

Ours and the published one have the same import name: whoever starts this puts ours on the path.
Says as a line of JSON what the energy is, then a line for each step, and the peak of memory.
"""

import json
import resource
import sys
import warnings

R_MAX = 5.0
MODEL = {
    "seed": 1,
    "model_dtype": "float32",
    "type_names": ["Cu"],
    "r_max": R_MAX,
    "l_max": 2,
    "num_layers": 2,
    "num_scalar_features": 64,
    "num_tensor_features": 16,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
    "avg_num_neighbors": 43.0,
}


def frame(repeats):
    from ase.build import bulk

    from nequip_core.ase_conversion import from_ase
    from nequip_core.neighbors import compute_neighborlist_
    from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper

    atoms = bulk("Cu", cubic=True).repeat(tuple(int(number) for number in repeats.split()))
    atoms.rattle(0.1, seed=0)
    data = compute_neighborlist_(ChemicalSpeciesToAtomTypeMapper(["Cu"])(from_ase(atoms)), R_MAX)
    return {k: v for k, v in data.items() if k not in ("pbc", "atomic_numbers")}


def main(who, task, repeats):
    warnings.simplefilter("ignore")
    from allegro import __file__ as place
    from allegro.model import AllegroModel

    if (who == "ours") != ("nequip-allegro" in place):
        raise SystemExit(f"allegro comes from {place}, which is not that of '{who}'")
    if who != "ours":
        from nequip.utils.global_state import set_global_state

        set_global_state()
    model = AllegroModel(**MODEL).train(task != "prediction")
    data = frame(repeats)

    def step():
        out = model(dict(data))
        if task != "prediction":
            (out["total_energy"].square().mean() + out["forces"].square().mean()).backward()
            model.zero_grad()
        return float(out["total_energy"])

    print(json.dumps({"energy": step(), "atoms": len(data["pos"])}), flush=True)
    for _ in sys.stdin:
        step()
        print("{}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
