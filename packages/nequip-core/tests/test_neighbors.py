"""Neighbor lists of every backend against a brute-force sum over images."""

import itertools
import sys

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError, MissingDependencyError
from nequip_core.frames import batched_from_list, from_dict
from nequip_core.neighbors import (
    DEFAULT_NEIGHBORLIST_BACKEND,
    NEIGHBORLIST_BACKEND_OPTIONS,
    compute_neighborlist_,
    register_neighborlist_backend,
    torch_neighbors,
)
from nequip_core.synthetic import synthetic_frame
from nequip_core.transforms import NeighborListTransform, SortedNeighborListTransform

BACKENDS = ["vesin", "matscipy", "ase", "torch"]
LIBRARIES = {"matscipy": "matscipy", "ase": "ase"}
CELLS = 1000


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param in LIBRARIES:
        pytest.importorskip(LIBRARIES[request.param])
    return request.param


def brute_force(positions, cell, pbc, r_max):
    """Every (i, j, shift) within the cutoff, sorted, by looking at all images that can be."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    fractional = positions @ np.linalg.inv(cell)
    spread = np.ceil(np.ptp(fractional, axis=0))
    reach = np.where(pbc, np.ceil(r_max / heights) + spread, 0).astype(int)
    shifts = np.array(list(itertools.product(*[range(-n, n + 1) for n in reach])))
    vectors = positions[None, :, None] - positions[:, None, None] + (shifts @ cell)
    near = np.square(vectors).sum(-1) <= r_max**2
    found = [(i, j, *shifts[k]) for i, j, k in np.argwhere(near) if i != j or shifts[k].any()]
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 5)


def random_structure(rng):
    """Positions, cell or None, pbc, cutoff: every kind of structure that there is."""
    kind = rng.choice(["cell", "cell", "cell", "small cell", "no cell", "far outside", "isolated"])
    count = int(rng.choice([1, 2, 3, 5]))
    cell = rng.normal(size=(3, 3)) + np.diag(rng.uniform(1.5, 4.0, size=3))  # skewed
    cell *= (rng.uniform(4.0, 40.0) / abs(np.linalg.det(cell))) ** (1 / 3)
    if rng.random() < 0.5:
        cell[rng.integers(3)] *= -1.0  # left-handed, or right-handed again
    pbc = rng.integers(2, size=3).astype(bool)
    r_max = float(rng.uniform(2.0, 3.5))
    span = (-1.0, 2.0)
    if kind == "small cell":
        cell, count = cell * 0.6, min(count, 2)
    elif kind == "no cell":
        positions = rng.normal(size=(count, 3)) * 2.0
        return positions, None, np.zeros(3, dtype=bool), r_max
    elif kind == "far outside":
        # All of them, so that the oracle's images stay few.
        away = rng.integers(-1000, 1000, size=3) @ cell
        return rng.uniform(*span, size=(count, 3)) @ cell + away, cell, pbc, r_max
    elif kind == "isolated":
        cell, r_max = cell * 2.5, 0.9
    return rng.uniform(*span, size=(count, 3)) @ cell, cell, pbc, r_max


@pytest.fixture(scope="module")
def structures():
    """Frames, cutoffs, and their edges by brute force."""
    rng = np.random.default_rng(1234)
    made = []
    for _ in range(CELLS):
        positions, cell, pbc, r_max = random_structure(rng)
        wanted = brute_force(positions, np.eye(3) if cell is None else cell, pbc, r_max)
        fields = {"pos": positions, "pbc": pbc}
        if cell is not None:
            fields["cell"] = cell
        made.append((from_dict(fields), r_max, wanted))
    return made


def edges(frame):
    """Rows of centre, neighbour and shift, in the order of the list."""
    shifts = frame.get("edge_cell_shift", torch.zeros(frame["edge_index"].shape[1], 3))
    return torch.cat([frame["edge_index"].T, shifts.long()], dim=1).numpy()


def test_list_is_that_of_brute_force_for_random_structures(backend, structures):
    found = 0
    for number, (frame, r_max, wanted) in enumerate(structures):
        listed = edges(compute_neighborlist_(dict(frame), r_max, backend))
        np.testing.assert_array_equal(listed, wanted, err_msg=f"structure {number}")
        found += len(listed)
    assert found > 10 * CELLS, "the structures have neighbours to find"


def test_random_structures_are_of_every_kind(structures):
    cells = [frame["cell"][0] for frame, _, _ in structures if "cell" in frame]
    handed = torch.stack([torch.linalg.det(cell) for cell in cells])
    assert (handed < 0).sum() > 100 and (handed > 0).sum() > 100
    assert len(cells) < CELLS - 50
    periodic = {tuple(frame["pbc"][0].tolist()) for frame, _, _ in structures}
    assert len(periodic) == 8
    assert sum(len(wanted) == 0 for _, _, wanted in structures) > 50
    assert max(np.abs(wanted[:, 2:]).max(initial=0) for _, _, wanted in structures) >= 3


def test_batch_has_the_lists_of_its_frames(backend, structures):
    for start in range(0, CELLS, 100):
        frames = [frame for frame, _, _ in structures[start : start + 100] if "cell" in frame]
        alone = batched_from_list([compute_neighborlist_(dict(f), 2.5, backend) for f in frames])
        batch = compute_neighborlist_(batched_from_list(frames), 2.5, backend)
        for key in ("edge_index", "edge_cell_shift"):
            assert torch.equal(batch[key], alone[key])


def test_missing_cell_vectors_of_open_directions_are_filled_in(backend):
    for given in itertools.product([False, True], repeat=3):
        cell = np.array([[3.0, 0.2, 0.0], [0.5, 3.0, 0.0], [0.1, 0.0, 3.2]])
        cell[~np.array(given)] = 0.0
        data = from_dict({"pos": np.zeros((1, 3)), "cell": cell, "pbc": given})
        frame = compute_neighborlist_(data, 3.3, backend)
        units = [np.eye(3, dtype=int)[k] for k in range(3) if given[k]]
        wanted = sorted(tuple(sign * unit) for unit in units for sign in (1, -1))
        nearest = [tuple(row[2:]) for row in edges(frame) if np.abs(row[2:]).sum() == 1]
        assert nearest == wanted
        assert torch.equal(frame["cell"], data["cell"]), "the given cell stays as it is"


def test_without_a_cell_there_are_no_shifts(backend):
    frame = from_dict({"pos": np.array([[0.0, 0, 0], [1.0, 0, 0]])})
    frame = compute_neighborlist_(frame, 2.0, backend)
    assert frame["edge_index"].tolist() == [[0, 1], [1, 0]]
    assert "edge_cell_shift" not in frame


@pytest.mark.parametrize("atoms", [0, 1])
def test_no_neighbours_are_an_empty_list(backend, atoms):
    frame = from_dict({"pos": np.zeros((atoms, 3)), "cell": np.zeros((3, 3)), "pbc": False})
    frame = compute_neighborlist_(frame, 2.0, backend)
    assert frame["edge_index"].shape == (2, 0) and frame["edge_index"].dtype == torch.int64
    assert frame["edge_cell_shift"].shape == (0, 3)


def test_frames_of_a_batch_may_be_empty(backend):
    pair = from_dict({"pos": np.array([[0.0, 0, 0], [1.0, 0, 0]])})
    empty = from_dict({"pos": np.zeros((0, 3))})
    batch = compute_neighborlist_(batched_from_list([empty, pair, empty, pair]), 2.0, backend)
    assert batch["edge_index"].tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]


@pytest.mark.parametrize("edge", [3.0, 3.61, 0.1 + 0.2])
def test_pairs_at_the_cutoff_are_listed_in_both_directions_or_in_none(backend, edge):
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = grid * edge + np.pi * edge
    data = {"pos": positions, "cell": np.eye(3) * 3 * edge, "pbc": True}
    listed = edges(compute_neighborlist_(from_dict(data), edge, backend))
    there = {tuple(row) for row in listed}
    assert there == {(j, i, -a, -b, -c) for i, j, a, b, c in there}
    assert len(there) <= 27 * 6
    below = compute_neighborlist_(from_dict(data), edge * (1 - 1e-9), backend)
    above = compute_neighborlist_(from_dict(data), edge * (1 + 1e-9), backend)
    assert (below["edge_index"].shape[1], above["edge_index"].shape[1]) == (0, 27 * 6)


def test_bare_cell_and_periodicity_without_an_axis_of_frames_work(backend):
    bare = {
        "pos": torch.zeros(1, 3).double(),
        "cell": torch.eye(3).double(),
        "pbc": torch.ones(3) > 0,
    }
    frame = compute_neighborlist_(dict(bare), 1.2, backend)
    assert frame["edge_index"].shape == (2, 6)
    assert frame["cell"].shape == (3, 3) and frame["pbc"].shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shifts_have_the_dtype_of_the_positions(backend, dtype):
    frame = {"pos": torch.zeros(1, 3, dtype=dtype), "cell": torch.eye(3, dtype=dtype)[None]}
    frame = compute_neighborlist_({**frame, "pbc": torch.ones(1, 3) > 0}, 1.2, backend)
    assert frame["edge_cell_shift"].dtype == dtype


def test_edge_fields_of_an_earlier_list_are_dropped(backend):
    frame = compute_neighborlist_(synthetic_frame(["H"], 3.0, num_atoms=8), 3.0, backend)
    frame["edge_lengths"] = torch.ones(frame["edge_index"].shape[1], 1)
    again = compute_neighborlist_(frame, 2.0, backend)
    assert "edge_lengths" not in again
    assert again["edge_cell_shift"].shape[0] == again["edge_index"].shape[1]


def test_lists_of_atoms_far_apart_stay_small():
    """Two clusters at a distance of 10^9 cutoffs: bins are counted by atoms, not by volume."""
    rng = np.random.default_rng(0)
    cluster = rng.normal(size=(200, 3))
    positions = np.concatenate([cluster, cluster + 1e9])
    found = torch_neighbors(from_dict({"pos": positions}), 1.0)["edge_index"]
    alone = torch_neighbors(from_dict({"pos": cluster}), 1.0)["edge_index"]
    assert abs(found.shape[1] - 2 * alone.shape[1]) < 0.01 * alone.shape[1]


def test_shifts_too_large_for_one_sorting_number_are_sorted_all_the_same():
    positions = np.array([[0.0, 0, 0], [1e7, -1e7, 1e7], [0.5, 0.5, 0.5]]) + 0.1
    frame = from_dict({"pos": positions, "cell": np.eye(3), "pbc": True})
    listed = edges(compute_neighborlist_(frame, 0.9))
    assert len(listed) and [tuple(row) for row in listed] == sorted(map(tuple, listed))


def test_default_is_vesin():
    assert DEFAULT_NEIGHBORLIST_BACKEND == "vesin"
    assert set(BACKENDS) <= set(NEIGHBORLIST_BACKEND_OPTIONS)
    assert NEIGHBORLIST_BACKEND_OPTIONS["torch"].supports_cuda
    assert not NEIGHBORLIST_BACKEND_OPTIONS["vesin"].supports_cuda


NAN = np.array([[0.0, 0, 0], [np.nan, 0, 0]])


@pytest.mark.parametrize(
    ("change", "r_max", "message"),
    [
        ({"pos": NAN}, 2.0, "position of atom 1 is not finite"),
        ({"cell": np.full((3, 3), np.inf)}, 2.0, "cell is not finite"),
        ({"cell": np.diag([1.0, 0, 1])}, 2.0, "cell vector b is missing.*every periodic direction"),
        ({"cell": np.ones((3, 3))}, 2.0, "lie in a plane.*three independent"),
        ({}, 0.0, "cutoff radius must be positive and finite, got 0.0"),
        ({}, -1.0, "cutoff radius must be positive"),
        ({}, float("nan"), "cutoff radius must be positive"),
        ({}, float("inf"), "cutoff radius must be positive"),
    ],
)
def test_unfit_geometry_is_refused(backend, change, r_max, message):
    data = {"pos": np.zeros((2, 3)), "cell": np.eye(3), "pbc": True, **change}
    with pytest.raises(DataError, match=message):
        compute_neighborlist_(from_dict(data), r_max, backend)


def test_periodicity_without_a_cell_is_refused(backend):
    frame = from_dict({"pos": np.zeros((1, 3)), "pbc": [True, False, True]})
    with pytest.raises(DataError, match="cell vector a, c is missing"):
        compute_neighborlist_(frame, 2.0, backend)


def test_wrong_frame_of_a_batch_is_named(backend):
    fine = from_dict({"pos": np.array([[0.0] * 3, [0.5] * 3]), "cell": np.eye(3), "pbc": True})
    odd = {**fine, "pos": torch.tensor(NAN)}
    with pytest.raises(DataError, match=r"atom 3 of the batch \(in frame 1\) is not finite"):
        compute_neighborlist_(batched_from_list([fine, odd]), 2.0, backend)
    odd = {**fine, "cell": torch.zeros(1, 3, 3).double()}
    with pytest.raises(DataError, match=r"pbc of frame 1 is .* cell vector a, b, c is missing"):
        compute_neighborlist_(batched_from_list([fine, odd]), 2.0, backend)


def lone():
    return from_dict({"pos": np.zeros((1, 3)), "cell": np.eye(3), "pbc": True})


def test_an_unknown_backend_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no .*'vesn', there are ase, .*did you mean 'vesin'"):
        compute_neighborlist_(lone(), 2.0, backend="vesn")
    with pytest.raises(ConfigError, match=r"'alchemiops'.*'torch' works on CUDA devices"):
        compute_neighborlist_(lone(), 2.0, backend="alchemiops")


def test_matscipy_that_gives_wrong_shifts_is_refused(monkeypatch):
    # 1.2.0 and older: atoms hundreds of cells outside of theirs get shifts off by hundreds.
    from nequip_core.neighbors import numpy_backends

    pytest.importorskip("matscipy")
    monkeypatch.setattr(numpy_backends, "distribution_version", lambda name: "1.2.0")
    numpy_backends._require_right_matscipy.cache_clear()
    frame = synthetic_frame(["Cu", "Au"], 4.0)
    with pytest.raises(MissingDependencyError, match=r"needs matscipy 1\.3 .*, this is 1\.2\.0"):
        compute_neighborlist_(frame, 4.0, "matscipy")


@pytest.mark.parametrize("name", ["matscipy", "ase", "vesin"])
def test_backend_without_its_library_says_what_to_install(name, monkeypatch):
    for module in (name, "matscipy.neighbours", "ase.neighborlist"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"needs {name}.*pip install {name}"):
        compute_neighborlist_(lone(), 2.0, backend=name)


@pytest.fixture
def options(monkeypatch):
    """The table of backends, put back afterwards."""
    before = dict(NEIGHBORLIST_BACKEND_OPTIONS)
    yield NEIGHBORLIST_BACKEND_OPTIONS
    NEIGHBORLIST_BACKEND_OPTIONS.clear()
    NEIGHBORLIST_BACKEND_OPTIONS.update(before)


def test_registered_backend_is_used_and_its_list_sorted(options):
    def backwards(data, r_max):
        data = torch_neighbors(data, r_max)
        return {key: data[key].flip(-1 if key == "edge_index" else 0) for key in
                ("edge_index", "edge_cell_shift")}  # fmt: skip

    register_neighborlist_backend("mine", backwards)
    frame = synthetic_frame(["H"], 3.0, num_atoms=8)
    wanted = edges(compute_neighborlist_(dict(frame), 2.9))
    np.testing.assert_array_equal(edges(compute_neighborlist_(dict(frame), 2.9, "mine")), wanted)
    with pytest.raises(ConfigError, match=r"'mine' already.*overwrite=True"):
        register_neighborlist_backend("mine", torch_neighbors)
    register_neighborlist_backend("mine", torch_neighbors, overwrite=True)
    assert options["mine"].fn is torch_neighbors


def test_options_of_a_backend_reach_it_and_unknown_ones_are_refused(options):
    given = []

    def counting(data, r_max, max_neighbors=None, **_):
        given.append(max_neighbors)
        return torch_neighbors(data, r_max)

    def strict(data, r_max, max_neighbors=None):
        return counting(data, r_max, max_neighbors)

    register_neighborlist_backend("counting", counting)
    register_neighborlist_backend("strict", strict)
    frame = synthetic_frame(["H"], 3.0, num_atoms=8)
    compute_neighborlist_(dict(frame), 2.9, "counting", {"max_neighbors": 5, "other": 1})
    for kind in (NeighborListTransform, SortedNeighborListTransform):
        kind(2.9, backend="strict", backend_kwargs={"max_neighbors": 7})(dict(frame))
    NeighborListTransform(2.9, backend="strict", skin=0.2, backend_kwargs={"max_neighbors": 9})(
        dict(frame)
    )
    assert given == [5, 7, 7, 9]
    with pytest.raises(ConfigError, match="'strict' has no option 'max_neighbor', only max_neigh"):
        compute_neighborlist_(dict(frame), 2.9, "strict", {"max_neighbor": 5})
    with pytest.raises(ConfigError, match="'vesin' has no options, got 'max_neighbors'"):
        compute_neighborlist_(dict(frame), 2.9, "vesin", {"max_neighbors": 5})


def test_registered_backend_for_cuda_alone_refuses_the_cpu(options):
    register_neighborlist_backend("gpu", torch_neighbors, supports_cpu=False, supports_cuda=True)
    with pytest.raises(ConfigError, match="'gpu' needs data on a CUDA device"):
        compute_neighborlist_(lone(), 2.0, backend="gpu")
    with pytest.raises(ConfigError, match="must support the CPU or CUDA"):
        register_neighborlist_backend("none", torch_neighbors, supports_cpu=False)


@pytest.mark.parametrize("whole", [False, True], ids=["function", "spec"])
def test_backend_of_another_distribution_is_found_by_entry_point(options, monkeypatch, whole):
    from nequip_core.neighbors import backends, vesin_neighbors

    offered = options["torch"] if whole else vesin_neighbors
    monkeypatch.setattr(backends, "plugin_names", lambda group: ["theirs"])
    monkeypatch.setattr(backends, "load_plugin", lambda group, name: offered)
    frame = synthetic_frame(["H"], 3.0, num_atoms=8)
    wanted = edges(compute_neighborlist_(dict(frame), 2.9))
    np.testing.assert_array_equal(edges(compute_neighborlist_(dict(frame), 2.9, "theirs")), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_list_on_a_gpu_is_that_of_the_cpu_and_stays_there(backend, structures):
    for frame, r_max, wanted in structures[:50]:
        there = {key: value.cuda() for key, value in frame.items()}
        there = compute_neighborlist_(there, r_max, backend)
        assert there["edge_index"].is_cuda
        listed = edges({key: value.cpu() for key, value in there.items()})
        np.testing.assert_array_equal(listed, wanted)
