"""Compiled models of every kind agree with the eager ones, and give the same bits every time.

A file of each kind is made from a few models that cover every choice; with NEQUIP_AGREEMENT=all,
as `nox -s agreement` sets it, from every combination of them.
"""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nequip_compile import aotinductor, torchscript
from nequip_core.compile_targets import ASE, BATCH, PAIR_NEQUIP
from nequip_core.compiled import load_compiled_model
from nequip_core.frames import batched_from_list
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.synthetic import synthetic_frame

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning"),
]

R_MAX = 4.0
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}
TYPES = {1: ["Cu"], 3: ["Cu", "O", "H"]}
# The table need not be symmetric.
CUTOFFS = {1: {"Cu": 3.5}, 3: {"Cu": {"O": 3.5, "H": 3.0}, "H": 2.5}}
TARGETS = {0: BATCH, 1: PAIR_NEQUIP, 2: ASE, 3: PAIR_NEQUIP}
PHYSICAL = {*ASE.outputs, *PAIR_NEQUIP.outputs}  # the others have the model's dtype
SUFFIXES = {"AOTInductor": ".nequip.pt2", "TorchScript": ".nequip.pth"}

# l_max, dtype, number of types, cutoffs by type pair, ZBL.
ALL = list(
    itertools.product(range(4), ("float64", "float32"), (1, 3), (False, True), (False, True))
)
# Every two of dtype, types and cutoffs occur together, in each way.
COVERING = {
    "AOTInductor": [
        (0, "float64", 1, False, False),
        (1, "float32", 1, True, True),
        (2, "float64", 3, True, True),
        (3, "float32", 3, False, False),
    ],
}
COVERING["TorchScript"] = [
    *COVERING["AOTInductor"],
    (3, "float64", 3, True, False),
    (2, "float32", 1, False, True),
    (1, "float64", 3, False, True),
    (0, "float32", 3, True, False),
]


def title(case):
    l_max, dtype, types, cutoffs, zbl = case
    words = [f"l_max {l_max}", dtype, f"{types} type{'s' * (types > 1)}"]
    return ", ".join(words + ["cutoffs"] * cutoffs + ["ZBL"] * zbl)


def cases():
    for kind, covering in COVERING.items():
        chosen = ALL if os.environ.get("NEQUIP_AGREEMENT") == "all" else covering
        for case in chosen:
            yield pytest.param((kind, *case), id=f"{kind}, {title(case)}")


def built(build, l_max, dtype, types, cutoffs, zbl):
    names = TYPES[types]
    potential = {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "units": "metal",
        "chemical_species": names,
    }
    return build(
        l_max=l_max,
        model_dtype=dtype,
        type_names=names,
        per_edge_type_cutoff=CUTOFFS[types] if cutoffs else None,
        pair_potential=potential if zbl else None,
        per_type_energy_shifts={name: -1.5 - index for index, name in enumerate(names)},
    )


def one_atom(type_names):
    frame = synthetic_frame(type_names[:1], R_MAX, periodic=False, num_atoms=1, seed=27)
    return compute_neighborlist_(frame, R_MAX)


def frames(type_names):
    """Structures that compilation has not seen, of sizes that it has not seen."""
    return {
        "crystal": synthetic_frame(type_names, R_MAX, num_atoms=61, seed=21),
        "crystal smaller than the cutoff": synthetic_frame(type_names, R_MAX, num_atoms=2, seed=22),
        "molecule": synthetic_frame(type_names, R_MAX, periodic=False, num_atoms=9, seed=23),
        "dimer": synthetic_frame(type_names, R_MAX, periodic=False, num_atoms=2, seed=24),
        "one atom": one_atom(type_names),
    }


@pytest.fixture(scope="module", params=cases())
def pair(request, build, tmp_path_factory):
    """An eager model and the same compiled; all tests of one come before those of the next."""
    kind, *case = request.param
    model = built(build, *case)
    path = tmp_path_factory.mktemp("agreement") / f"model{SUFFIXES[kind]}"
    if kind == "AOTInductor":
        aotinductor.compile_model(model, path, TARGETS[case[0]])
    else:
        torchscript.compile_model(model, path)
    return model, load_compiled_model(path)


def require_equal(found, wanted, fields, tolerance):
    for field in fields:
        assert found[field].shape == wanted[field].shape, field
        assert found[field].dtype == wanted[field].dtype, field
        assert found[field].dtype == torch.float64 or field not in PHYSICAL, field
        scale = max(1.0, float(wanted[field].abs().max()))
        torch.testing.assert_close(
            found[field],
            wanted[field],
            rtol=0.0,
            atol=tolerance * scale,
            msg=lambda text, field=field: f"{field}: {text}",
        )


def test_every_output_equals_the_eager_one(pair):
    model, compiled = pair
    tolerance = TOLERANCES[model.model_dtype]
    for frame in frames(model.type_names).values():
        require_equal(compiled(frame), model(dict(frame)), compiled.outputs, tolerance)
    if "batch" in compiled.inputs:
        batch = batched_from_list(list(frames(model.type_names).values()))
        require_equal(compiled(batch), model(dict(batch)), compiled.outputs, tolerance)


def test_forces_are_of_a_size_that_the_tolerance_can_tell_from_nothing(pair):
    # An output of zeros would agree with an eager model that gives zeros.
    model, compiled = pair
    for name in ("crystal", "molecule", "dimer"):
        assert float(compiled(frames(model.type_names)[name])["forces"].abs().max()) > 1e-3


def test_a_call_gives_the_same_bits_whatever_was_called_before(pair):
    model, compiled = pair
    structures = frames(model.type_names)
    first = {name: compiled(frame) for name, frame in structures.items()}
    for name in [*reversed(structures), *structures]:
        again = compiled(structures[name])
        for field in compiled.outputs:
            assert torch.equal(again[field], first[name][field]), (name, field)


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_calls_on_several_cores_give_the_same_bits_and_agree(pair, four_threads):
    model, compiled = pair
    # Large enough that torch divides the sums among the cores.
    frame = synthetic_frame(model.type_names, R_MAX, num_atoms=300, seed=25)
    found = [compiled(frame) for _ in range(4)]
    for field in compiled.outputs:
        assert all(torch.equal(one[field], found[0][field]) for one in found), field
    require_equal(found[0], model(dict(frame)), compiled.outputs, TOLERANCES[model.model_dtype])


def test_calls_from_several_threads_at_once_give_the_same_bits(pair):
    model, compiled = pair
    structures = list(frames(model.type_names).values())
    alone = [compiled(frame) for frame in structures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(compiled, structures * 4))
    for index, found in enumerate(together):
        for field in compiled.outputs:
            assert torch.equal(found[field], alone[index % len(structures)][field]), field
