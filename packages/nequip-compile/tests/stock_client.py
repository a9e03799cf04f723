"""A client that knows nothing of this project: a file is called as by a C++ engine, in torch alone.

    python stock_client.py FILE REQUEST ANSWER

Styles are those of LAMMPS: ``nequip`` (owned atoms, ghosts folded onto them), ``allegro`` (owned
and ghost atoms), ``allegro/kk`` (the same with padded arrays), and two that call the targets
``ase`` and ``batch`` by position. A structure has ``pos`` (N, 3), ``cell`` (3, 3), ``pbc`` and
``types`` (N,) from 1 on, as LAMMPS counts them; ``names`` are what ``pair_coeff`` gives the types.
"""

import itertools
import math
import re
import sys

import torch

INPUTS = ("pos", "edge_index", "atom_types", "cell", "edge_cell_shift")
KEYS = ("r_max", "per_edge_type_cutoff", "type_names", "num_types", "allow_tf32")
PADDING = 5


def stoi(text):
    """Take an integer as ``std::stoi`` does, and all of the text."""
    return int(re.fullmatch(r"\s*([+-]?\d+)", text).group(1))


def stod(text):
    """Take a number as ``std::stod`` does, and all of the text."""
    return float(re.fullmatch(r"\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)", text).group(1))


class Script:
    """A ``.nequip.pth``: a dictionary goes in, a dictionary comes out."""

    def __init__(self, path):
        self.metadata = dict.fromkeys(KEYS, "")
        self.model = torch.jit.load(path, map_location="cpu", _extra_files=self.metadata)
        self.model = torch.jit.freeze(self.model.eval())
        for key, value in self.metadata.items():
            self.metadata[key] = value.decode() if isinstance(value, bytes) else value

    def __call__(self, fields, inputs):
        return self.model({name: fields[name] for name in inputs})


class Package:
    """A ``.nequip.pt2``: tensors go in and come out by position."""

    def __init__(self, path):
        self.loader = torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, -1)
        self.metadata = self.loader.get_metadata()
        self.outputs = self.metadata["nequip_aoti_outputs"].split()

    def __call__(self, fields, inputs):
        assert list(inputs) == self.metadata["nequip_aoti_inputs"].split()
        found = self.loader.run([fields[name] for name in inputs])
        assert len(found) == len(self.outputs)
        return dict(zip(self.outputs, found, strict=True))


class PairStyle:
    """The part of a pair style that makes inputs of what the engine knows."""

    def __init__(self, metadata, names):
        self.r_max = stod(metadata["r_max"])
        self.tf32 = stoi(metadata["allow_tf32"])
        count, model_types = stoi(metadata["num_types"]), metadata["type_names"].split()
        table = [stod(text) for text in metadata.get("per_edge_type_cutoff", "").split()]
        cutoffs = torch.tensor(table or [self.r_max] * count**2, dtype=torch.float64)
        self.cutoffs = cutoffs.reshape(count, count)
        self.to_model = torch.tensor([model_types.index(name) for name in names])

    def atoms(self, structure):
        """Return positions of owned atoms and ghosts, the owner of each, and model types."""
        cell, periodic = structure["cell"], structure["pbc"]
        inverse = torch.linalg.inv(cell)
        fractional = structure["pos"] @ inverse
        fractional -= fractional.floor() * torch.tensor(periodic)
        owned = fractional @ cell
        images = [
            range(-reach, reach + 1) if wraps else (0,)
            for wraps, reach in zip(
                periodic, [math.ceil(self.r_max * h) for h in inverse.norm(dim=0)], strict=True
            )
        ]
        everything, owners = [owned], [torch.arange(len(owned))]
        for image in itertools.product(*images):
            if any(image):
                moved = owned + torch.tensor(image, dtype=torch.float64) @ cell
                near = (torch.cdist(moved, owned) <= self.r_max).any(dim=1)
                everything.append(moved[near])
                owners.append(near.nonzero()[:, 0])
        owner = torch.cat(owners)
        return torch.cat(everything), owner, self.to_model[structure["types"] - 1][owner]

    def edges(self, positions, types, count):
        """Return centres, all of them owned atoms, and neighbors within their pair's cutoff."""
        distances = torch.cdist(positions[:count], positions)
        allowed = self.cutoffs[types[:count, None], types[None, :]]
        allowed[range(count), range(count)] = -1.0
        return (distances <= allowed).nonzero().T.contiguous()

    def fields(self, structure, style):
        """Return the input fields of one structure."""
        count, cell = len(structure["pos"]), structure["cell"]
        positions, owner, types = self.atoms(structure)
        edges = self.edges(positions, types, count)
        if style.startswith("allegro"):
            if style == "allegro/kk":
                positions, types, edges = self.padded(positions, types, edges)
            return {"pos": positions, "edge_index": edges, "atom_types": types}
        shifts = (positions - positions[owner])[edges[1]] @ torch.linalg.inv(cell)
        return {
            "pos": positions[:count].contiguous(),
            "edge_index": torch.stack([edges[0], owner[edges[1]]]),
            "atom_types": types[:count].contiguous(),
            "cell": cell[None].contiguous(),
            "edge_cell_shift": shifts.round().contiguous(),
        }

    def padded(self, positions, types, edges):
        """Return the arrays with atoms at the origin, one far away, and edges between the last."""
        extra = torch.zeros(PADDING, 3, dtype=torch.float64)
        extra[-1, 0] = 100.0
        last = len(positions) + PADDING - 1
        more = torch.tensor([[last - 1] * PADDING, [last] * PADDING])
        return (
            torch.cat([positions, extra]),
            torch.cat([types, self.to_model[:1].expand(PADDING)]),
            torch.cat([edges, more], dim=1),
        )


def one_by_one(model, pair, structures, style):
    """Call the model for each structure and return what comes back."""
    inputs = INPUTS[:3] if style.startswith("allegro") else INPUTS
    answers = []
    for structure in structures:
        fields = pair.fields(structure, style)
        raw = model(fields, inputs)
        answer = {"raw": {name: value.detach() for name, value in raw.items()}, "fields": fields}
        if style.startswith("allegro"):
            # Forces on ghosts go home to their owners: `newton on`.
            _, owner, _ = pair.atoms(structure)
            forces = torch.zeros_like(structure["pos"])
            answer["forces"] = forces.index_add(0, owner, answer["raw"]["forces"][: len(owner)])
        answers.append(answer)
    return answers


def all_at_once(model, pair, structures):
    """Call a model of target ``batch`` once for all structures and return what comes back."""
    parts = [pair.fields(structure, "nequip") for structure in structures]
    sizes = torch.tensor([len(part["pos"]) for part in parts])
    starts = sizes.cumsum(0) - sizes
    for part, start in zip(parts, starts, strict=True):
        part["edge_index"] = part["edge_index"] + start
    fields = {
        name: torch.cat([part[name] for part in parts], dim=int(name == "edge_index"))
        for name in INPUTS
    }
    fields["batch"] = torch.arange(len(parts)).repeat_interleave(sizes)
    fields["num_atoms"] = sizes
    return [{"raw": model(fields, (*INPUTS, "batch", "num_atoms")), "fields": fields}]


def main(path, request, answer):
    """Answer a request."""
    wanted = torch.load(request)
    model = (Script if path.endswith(".nequip.pth") else Package)(path)
    pair = PairStyle(model.metadata, wanted["names"])
    structures, style = wanted["structures"], wanted["style"]
    answers = (
        all_at_once(model, pair, structures)
        if style == "batch"
        else one_by_one(model, pair, structures, style)
    )
    parsed = {"r_max": pair.r_max, "allow_tf32": pair.tf32, "cutoffs": pair.cutoffs}
    ours = [name for name in sys.modules if name.partition(".")[0].startswith("nequip")]
    content = {"answers": answers, "texts": model.metadata, "parsed": parsed, "ours": ours}
    torch.save(content, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
