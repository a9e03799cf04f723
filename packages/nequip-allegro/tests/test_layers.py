"""Parts of the network, and what is registered: irreps, products, sums over edges, ghost atoms."""

from __future__ import annotations

import pytest
import torch

from allegro.compile_target import PAIR_ALLEGRO, with_ghost_atoms
from allegro.nn.contraction import Contracter
from allegro.nn.edge_sum import EdgewiseReduce
from allegro.nn.scalar_embedding import TwoBodySplineScalarEmbed
from allegro.nn.tensor_track import dimension, tensor_track
from nequip_core.plugins import ARCHITECTURES, COMPILE_TARGETS, load_plugin
from nequip_core.synthetic import synthetic_frame
from nequip_model.architecture import build_described, describe

HARMONICS = [(0, 1), (1, -1), (2, 1)]


def test_tensors_keep_what_is_reachable_and_leads_to_scalars() -> None:
    allowed = [(l, p) for l in range(3) for p in (1, -1)]
    assert tensor_track(HARMONICS, allowed, 3) == [
        ((0, 1), (1, -1), (2, 1)),
        # 0o is not reached by one product; 2o leads to 0e by two more.
        ((0, 1), (1, 1), (1, -1), (2, 1), (2, -1)),
        ((0, 1), (1, -1), (2, 1)),
        ((0, 1),),
    ]


def test_harmonics_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match=r"begin with even scalars"):
        tensor_track(HARMONICS, [(1, -1), (0, 1)], 2)


@pytest.mark.parametrize("coupled", [True, False], ids=["by channel", "by path"])
@pytest.mark.parametrize(
    "irreps_out", [[(0, 1), (1, 1), (1, -1), (2, 1)], [(0, 1)], [(1, 1)]], ids=str
)
def test_product_is_the_sum_over_paths(coupled: bool, irreps_out: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    edges, atoms, channels = 7, 3, 4
    product = Contracter(HARMONICS, HARMONICS, irreps_out, channels, coupled).double()
    features = torch.randn(edges, 9, channels, dtype=torch.float64)
    environment = torch.randn(atoms, 9, channels, dtype=torch.float64)
    centre = torch.tensor([0, 0, 2, 1, 1, 2, 0])
    symbols = product.w3j.reshape(product.num_paths, 9, -1, dimension(irreps_out))
    if product.diagonal:
        symbols = torch.diag_embed(symbols.squeeze(2).transpose(1, 2)).permute(0, 2, 3, 1)
    weights = product.weights.reshape(-1, product.num_paths).expand(channels, -1)
    expected = torch.einsum("up,pijk,eiu,eju->eku", weights, symbols, features, environment[centre])
    found = product(features, environment, centre)
    assert float(expected.detach().abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_irreps_that_do_not_couple_are_refused() -> None:
    with pytest.raises(ValueError, match="do not couple"):
        Contracter([(0, 1)], [(0, 1)], [(1, -1)], 2)


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("sum", [3.0, 0.0, -4.0]), ("mean", [1.5, 0.0, -4.0]), ("max", [2.0, 0.0, -4.0])],
)
def test_edges_are_reduced_to_their_centres(reduce: str, expected: list[float]) -> None:
    data = {
        "e": torch.tensor([[1.0], [2.0], [-4.0]]),
        "edge_index": torch.tensor([[0, 0, 2], [1, 2, 0]]),
        "atom_types": torch.zeros(3, dtype=torch.int64),
    }
    out = EdgewiseReduce("e", reduce=reduce, irreps_in={"e": "1x0e"})(dict(data))
    assert out[f"{reduce}_e"].reshape(-1).tolist() == expected
    with pytest.raises(ValueError, match="reduce must be"):
        EdgewiseReduce("e", reduce="median")
    with pytest.raises(ValueError, match="normalises sums"):
        EdgewiseReduce("e", reduce="max", avg_num_neighbors=2.0, type_names=["H"])


def test_splines_end_smoothly_at_the_cutoff() -> None:
    embedding = TwoBodySplineScalarEmbed(["H"], num_splines=6, spline_span=4, module_output_dim=3)
    x = torch.tensor([[0.99999], [1.0], [1.5]], dtype=torch.float64, requires_grad=True)
    scalars = embedding.spline(x, torch.zeros(3, dtype=torch.int64))
    (slope,) = torch.autograd.grad(scalars.sum(), x)
    assert float(scalars[0].detach().abs().max()) < 1e-15
    assert not scalars[1:].any()
    assert float(slope[0].abs()) < 1e-9
    assert not slope[1:].any()


def test_ghost_atoms_do_not_change_the_energies_of_the_others(build) -> None:
    model = build()
    frame = synthetic_frame(["H", "C", "O"], 4.0)
    atoms = frame["pos"].shape[0]
    ghosts = PAIR_ALLEGRO.prepare(frame)
    assert set(ghosts) == set(PAIR_ALLEGRO.inputs)
    assert ghosts["pos"].shape[0] > atoms
    assert frame["pos"].shape[0] == atoms
    assert int(ghosts["edge_index"][0].max()) < atoms
    expected, found = model(dict(frame)), model(dict(ghosts))
    torch.testing.assert_close(
        found["atomic_energy"][:atoms], expected["atomic_energy"], atol=1e-12, rtol=0.0
    )
    torch.testing.assert_close(found["virial"], expected["virial"], atol=1e-10, rtol=0.0)
    # Forces on images belong to their atoms: added up they are the forces of the cell.
    cell = frame["cell"].reshape(3, 3)
    fraction = torch.linalg.solve(cell.T, ghosts["pos"].T).T
    away = fraction.unsqueeze(1) - fraction[:atoms].unsqueeze(0)
    owner = (away - away.round()).norm(dim=2).argmin(dim=1)
    forces = torch.zeros_like(expected["forces"]).index_add(0, owner, found["forces"])
    torch.testing.assert_close(forces, expected["forces"], atol=1e-10, rtol=0.0)


def test_frame_without_images_has_no_ghosts() -> None:
    frame = synthetic_frame(["H", "C", "O"], 4.0)
    frame = {k: frame[k] for k in ("pos", "atom_types", "edge_index")}
    assert with_ghost_atoms(frame)["pos"] is frame["pos"]


def test_what_is_registered_is_found_by_name() -> None:
    assert load_plugin(COMPILE_TARGETS, "pair_allegro") is PAIR_ALLEGRO
    for name in (
        "AllegroModel",
        "AllegroEnergyModel",
        "FullAllegroModel",
        "FullAllegroEnergyModel",
    ):
        assert load_plugin(ARCHITECTURES, name).architecture_name == name


def test_model_is_built_again_from_its_description(build) -> None:
    model = build("bessel_one_parity_zbl_cutoffs_by_pair")
    description = describe(model)
    assert description["architecture"] == "AllegroModel"
    assert description["version"] == 1
    assert description["arguments"]["tp_path_channel_coupling"] is True
    again = build_described(description).state_dict()
    assert list(again) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(again[name], value), name
