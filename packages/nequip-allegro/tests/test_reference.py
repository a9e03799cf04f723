"""The network of the published nequip-allegro 0.8.3: its weights, its outputs, its formulas.

The numbers in ``tests/golden/extension`` were written where that is installed, see
``tools/golden/extension_write.py``.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_core.synthetic import synthetic_frame
from nequip_model.coupling import wigner_3j
from nequip_model.nn.spherical_harmonics import spherical_harmonics

FOLDER = Path(__file__).parents[3] / "tests" / "golden" / "extension"
CASES = json.loads((FOLDER / "cases.json").read_text())


@pytest.fixture(params=CASES["cases"])
def case(request):
    return request.param


def assert_outputs(model, golden, case):
    out = model(golden("frame"))
    expected = golden(f"{case}/out")
    assert float(expected["forces"].abs().max()) > 1e-3, "forces too small to judge"
    for field, value in expected.items():
        torch.testing.assert_close(out[field], value, atol=1e-10, rtol=1e-12)


def test_same_seed_gives_the_weights_and_outputs_of_the_reference(build, golden, case):
    model = build(case)
    expected, found = golden(f"{case}/state"), model.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        torch.testing.assert_close(found[name], value, atol=1e-14, rtol=0.0)
    assert_outputs(model, golden, case)


def test_weights_of_the_reference_load_strictly_into_another_model(build, golden, case):
    model = build(case, seed=1)
    model.load_state_dict(golden(f"{case}/state"), strict=True)
    assert_outputs(model, golden, case)


def perceptron(state, name, features):
    """Return the output of a network from its bare weights."""
    place = 0
    while f"{name}.mlp.{place}.weight" in state:
        weight = state[f"{name}.mlp.{place}.weight"]
        gain = 1.0 if place == 0 else math.sqrt(2.0)
        features = features @ (weight * (gain / math.sqrt(weight.shape[0])))
        if f"{name}.mlp.{place + 2}.weight" in state:
            features = torch.nn.functional.silu(features)
        place += 2
    return features


def couple(first, second, product):
    degrees = abs(first[0] - second[0]) <= product[0] <= first[0] + second[0]
    return degrees and first[1] * second[1] == product[1]


def irreps_of_layers(l_max, parity, num_layers):
    """Return the irreps before, between and after the layers: reachable, and of some use."""
    harmonics = [(l, (-1) ** l) for l in range(l_max + 1)]
    allowed = [(l, p) for l in range(l_max + 1) for p in (1, -1)] if parity else harmonics
    chain = [harmonics]
    for layer in range(num_layers):
        candidates = [(0, 1)] if layer == num_layers - 1 else allowed
        chain.append(
            [o for o in candidates if any(couple(a, b, o) for a in chain[-1] for b in harmonics)]
        )
    for layer in reversed(range(num_layers)):
        chain[layer] = [
            a
            for a in chain[layer]
            if any(couple(a, b, o) for b in harmonics for o in chain[layer + 1])
        ]
    return chain


def blocks(irreps):
    """Return irrep -> slice of its components, one copy each."""
    found, start = {}, 0
    for l, p in irreps:
        found[l, p] = slice(start, start + 2 * l + 1)
        start += 2 * l + 1
    return found


def atomic_energies(state, frame, hyper):
    """Return the atomic energies, (N, 1), by the formulas of the network, path by path."""
    l_max, channels, scalars = hyper["l_max"], hyper["num_tensor_features"], hyper["S"]
    centre, neighbour = frame["edge_index"]
    types = frame["atom_types"]
    vectors = frame["pos"][neighbour] - frame["pos"][centre]
    vectors = vectors + frame["edge_cell_shift"] @ frame["cell"].reshape(3, 3)
    x = vectors.norm(dim=1, keepdim=True) / hyper["r_max"]
    if hyper["embedding"] == "bessel":
        p, name = 6.0, "radial_chemical_embed.type_embed"
        envelope = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
        envelope = (envelope - p * (p + 1) / 2 * x ** (p + 2)) * (x < 1)
        roots = state["radial_chemical_embed.bessel_encode.bessel_weights"]
        basis = torch.sinc(x * roots) * roots * envelope
        ends = [
            state[f"{name}.center_embed.weight"][types[centre]],
            state[f"{name}.neighbor_embed.weight"][types[neighbour]],
        ]
        s = torch.cat(ends, 1) * perceptron(state, f"{name}.basis_linear", basis)
    else:
        knots, span = hyper["num_splines"], hyper["spline_span"]
        lower, width = torch.arange(-span, knots - span) / knots, (span + 1) / knots
        phase = 2 * math.pi / width * (torch.minimum(x, lower + width).maximum(lower) - lower)
        weights = state["radial_chemical_embed.spline.class_embed.weight"]
        weights = weights[types[centre] * len(hyper["type_names"]) + types[neighbour]]
        weights = weights.reshape(len(x), -1, knots)
        s = torch.einsum("eck,ek->ec", weights, 0.25 * (1 - torch.cos(phase)) ** 2)
    s = perceptron(state, "scalar_embed_mlp.mlp_module", s)
    harmonics = spherical_harmonics(l_max, vectors / vectors.norm(dim=1, keepdim=True))
    degree = torch.cat([torch.full((2 * l + 1,), l) for l in range(l_max + 1)])

    def weighted(weights):
        return harmonics.unsqueeze(1) * weights.reshape(-1, channels, l_max + 1)[:, :, degree]

    tensors = weighted(perceptron(state, "tensor_embed.env_embed_linear", s))
    latent = perceptron(state, "allegro.first_layer_env_embed_projection", s)
    gathered = [latent[:, :scalars]]
    chain = irreps_of_layers(l_max, hyper["parity"], hyper["num_layers"])
    for layer, (before, after) in enumerate(itertools.pairwise(chain)):
        edges = weighted(latent[:, scalars:]) / math.sqrt(hyper["avg_num_neighbors"])
        environment = torch.zeros(len(types), *edges.shape[1:], dtype=edges.dtype)
        environment = environment.index_add(0, centre, edges)[centre]
        weights, path, out = state[f"allegro.tps.{layer}.weights"], 0, []
        several = sum(couple(a, b, o) for o in after for a in before for b in chain[0]) > 1
        for o in after:
            total = 0.0
            for a, first in blocks(before).items():
                for b, second in blocks(chain[0]).items():
                    if couple(a, b, o):
                        symbols = wigner_3j(a[0], b[0], o[0]) * math.sqrt(2 * o[0] + 1)
                        weight = weights[..., path] if several else weights
                        product = torch.einsum(
                            "ijk,eui,euj->euk",
                            symbols,
                            tensors[:, :, first],
                            environment[:, :, second],
                        )
                        total = total + weight.reshape(1, -1, 1) * product
                        path += 1
            out.append(total)
        tensors = torch.cat(out, 2)
        latent = perceptron(
            state, f"allegro.latents.{layer}", torch.cat([*gathered, tensors[:, :, 0]], 1)
        )
        gathered.append(latent[:, :scalars])
    energy = perceptron(state, "edge_readout.mlp_module", torch.cat(gathered, 1))
    energy = energy / math.sqrt(2 * hyper["avg_num_neighbors"])
    zeros = torch.zeros(len(types), 1, dtype=energy.dtype)
    shifts = torch.tensor([hyper["per_type_energy_shifts"][name] for name in hyper["type_names"]])
    return 1.5 * zeros.index_add(0, centre, energy) + shifts[types].unsqueeze(1)


BESSEL = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 5}
SPLINE = {"_target_": "allegro.nn.TwoBodySplineScalarEmbed", "num_splines": 8, "spline_span": 6}


@pytest.mark.parametrize(
    "changes",
    [
        {"l_max": 2, "parity": True, "num_layers": 2},
        {"l_max": 2, "parity": True, "num_layers": 3, "tp_path_channel_coupling": False},
        {"l_max": 1, "parity": False, "num_layers": 1},
        {"l_max": 3, "parity": False, "num_layers": 3, "radial_chemical_embed": SPLINE},
        {"l_max": 0, "parity": True, "num_layers": 2, "tp_path_channel_coupling": False},
        {"l_max": 3, "parity": True, "num_layers": 3, "radial_chemical_embed": SPLINE},
    ],
    ids=str,
)
def test_atomic_energies_are_those_of_the_formulas(build, changes):
    arguments = {"parity": True, "radial_chemical_embed": BESSEL, **changes}
    model = build(num_scalar_features=6, **arguments)
    prefix = "model.func."
    state = {
        k.removeprefix(prefix): v for k, v in model.state_dict().items() if k.startswith(prefix)
    }
    hyper = {**CASES["shared"], **SPLINE, **arguments, "S": 6}
    hyper["embedding"] = "bessel" if arguments["radial_chemical_embed"] is BESSEL else "spline"
    frame = synthetic_frame(["H", "C", "O"], 4.0)
    expected = atomic_energies(state, frame, hyper)
    found = model(dict(frame))["atomic_energy"]
    assert float((expected - expected.mean()).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0.0)


def test_energy_model_gives_the_energies_without_derivatives(golden):
    from allegro.model import AllegroEnergyModel

    arguments = {**CASES["shared"], **CASES["cases"]["bessel"]}
    model = AllegroEnergyModel(**arguments)
    state = golden("bessel/state")
    model.load_state_dict(
        {k.replace(".func.", "."): v for k, v in state.items() if "_empty" not in k}
    )
    out = model.eval()(golden("frame"))
    assert "forces" not in out
    expected = golden("bessel/out")["total_energy"]
    torch.testing.assert_close(out["total_energy"], expected, atol=1e-10, rtol=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radial_chemical_embed": {"num_bessels": 4}}, "must be a mapping with _target_"),
        ({"radial_chemical_embed": {**BESSEL, "bessels": 4}}, "bessels"),
        ({"radial_chemical_embed": {"_target_": "allegro.nn.Twobody"}}, "has no 'Twobody'"),
        ({"radial_chemical_embed": {"_target_": "math.hypot"}}, "math.hypot"),
        ({"radial_chemical_embed_dim": 5}, "must be even"),
        ({"num_layers": 0}, "num_layers must be an integer, at least 1"),
        ({"num_tensor_features": 2.5}, "num_tensor_features must be an integer"),
        ({"avg_num_neighbors": None}, "avg_num_neighbors must be specified"),
        ({"avg_num_neighbors": {"H": 1.0}}, "lacks ['C', 'O']"),
        ({"parity": "yes"}, "parity must be true or false"),
        ({"l_max": -1}, "l_max must be an integer, at least 0"),
        ({"r_max": 0.0}, "r_max must be a positive number"),
        ({"readout_mlp_nonlinearity": "swish"}, "swish"),
        ({"num_tensor_feature": 4}, "no argument 'num_tensor_feature'"),
        ({"pair_potential": {}}, "pair_potential must be a mapping"),
        ({"radial_chemical_embed": {**SPLINE, "spline_span": 9}}, "spline_span must lie between"),
    ],
    ids=str,
)
def test_wrong_argument_is_named_with_what_is_expected(build, changes, message):
    with pytest.raises(ConfigError) as error:
        build(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("allowed", "message"),
    [("1o + 0e", "must begin with even scalars"), ("0e + 1x", "not a valid irreps notation")],
)
def test_irreps_that_do_not_lead_to_scalars_are_refused(allowed, message):
    from allegro.model.allegro_models import FullAllegroModel

    shared = {k: v for k, v in CASES["shared"].items() if k != "l_max"}
    with pytest.raises(ConfigError, match=message.replace("+", r"\+")):
        FullAllegroModel(
            **shared,
            irreps_edge_sh=1,
            tensor_track_allowed_irreps=allowed,
            radial_chemical_embed=BESSEL,
        )


def test_full_model_with_the_irreps_of_the_simple_one_is_the_same(golden):
    from allegro.model import AllegroModel
    from allegro.model.allegro_models import FullAllegroModel

    shared = {k: v for k, v in CASES["shared"].items() if k != "l_max"}
    shared["radial_chemical_embed"] = BESSEL
    simple = AllegroModel(l_max=1, **shared).eval()(golden("frame"))["forces"]
    full = FullAllegroModel(
        irreps_edge_sh="0e + 1o", tensor_track_allowed_irreps="0e + 0o + 1e + 1o", **shared
    )
    torch.testing.assert_close(full.eval()(golden("frame"))["forces"], simple, rtol=0, atol=0)
