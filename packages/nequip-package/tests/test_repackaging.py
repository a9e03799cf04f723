"""Models that run code of a package keep it: fine-tuned, packaged again, over three generations."""

from __future__ import annotations

import importlib
import importlib.metadata
import linecache
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.snapshot import importer_of, load_models, open_importer
from nequip_core.errors import PackagingError
from nequip_core.saved_model import SavedModel, load_saved_model
from nequip_core.synthetic import synthetic_frame
from nequip_model.checkpoint import build_models
from nequip_package.build import build_package
from nequip_package.command import main
from nequip_package.forms import load_forms
from nequip_package.signing import sign_package

# Code of NequIP's packages, which is not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

FRAME = synthetic_frame(["Cu", "Au"], 4.0, seed=11)


def energy(model: Any) -> torch.Tensor:
    return model(dict(FRAME))["total_energy"]


def relations(package: Path) -> list[tuple[str, str, int | None]]:
    steps = PackageReader(package).lineage
    return [(step["relation"], step["digest"], step["format"]) for step in steps]


def test_three_generations_keep_their_code_with_every_base_gone(
    checkpoint: Path, fine_tune: Callable[..., Path], tmp_path: Path
) -> None:
    packages, energies = [], []
    source = checkpoint
    for generation in range(3):
        folder = tmp_path / str(generation)
        folder.mkdir()
        target = folder / "model.nequip.zip"
        assert main(["build", str(source), str(target)]) == 0
        energies.append(energy(load_package(target).models["sole_model"]))
        packages.append(PackageReader(target))
        packages[-1].verify_contents()
        if generation == 2:
            break
        source = fine_tune(target, tmp_path / f"tuned{generation}.ckpt")
        expected = energy(load_saved_model(source).models["sole_model"])
        kept = tmp_path / f"kept{generation}.nequip.zip"
        shutil.move(target, kept)
        torch.testing.assert_close(
            energy(load_saved_model(source).models["sole_model"]), expected, rtol=0, atol=0
        )
        packages[-1] = PackageReader(kept)
    assert len({float(value) for value in energies}) == 3, "each generation has other weights"
    identities = [package.identity for package in packages]
    assert relations(tmp_path / "2" / "model.nequip.zip") == [
        ("fine-tuned", identities[1], 3),
        ("fine-tuned", identities[0], 3),
    ]
    assert relations(tmp_path / "kept0.nequip.zip") == []
    for package in packages[1:]:
        assert package.sources() == packages[0].sources()
        for member in package.sources().values():
            assert package.read_bytes(member) == packages[0].read_bytes(member)


def test_package_made_by_nequip_is_fine_tuned_and_packaged_with_all_its_modes(
    reference_package: Callable[..., Path], fine_tune: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base.nequip.zip"
    shutil.copy(reference_package("0.19.1"), base)
    original = PackageReader(base)
    identity = original.identity
    old_sources = {name: original.read_bytes(m) for name, m in original.sources().items()}
    tuned = fine_tune(base, tmp_path / "tuned.ckpt", trust_code=True)
    base.unlink()
    target = tmp_path / "new.nequip.zip"
    assert main(["build", str(tuned), str(target), "--trust-code"]) == 0
    reader = PackageReader(target)
    assert reader.metadata["available_models"] == ["eager", "compile"]
    assert reader.metadata["versions"]["nequip"] == "0.19.1", "of the code in the package"
    assert "nequip-model" not in reader.metadata["versions"]
    assert "nequip-package" in reader.metadata["packager_versions"]
    assert relations(target) == [("fine-tuned", identity, 2)]
    found = {name: reader.read_bytes(member) for name, member in reader.sources().items()}
    assert found == old_sources
    importer = open_importer(reader)
    eager, compiled = (load_models(importer, reader, mode) for mode in ("eager", "compile"))
    expected = energy(load_saved_model(tuned, trust_code=True).models["sole_model"])
    assert torch.equal(energy(eager["sole_model"]), expected)
    for name, value in eager.state_dict().items():
        assert torch.equal(compiled.state_dict()[name], value)


def test_forms_of_a_checkpoint_share_one_importer(
    reference_package: Callable[..., Path], fine_tune: Callable[..., Path], tmp_path: Path
) -> None:
    tuned = fine_tune(reference_package("0.16.2"), tmp_path / "tuned.ckpt", trust_code=True)
    forms = load_forms(tuned, trust_code=True)
    assert set(forms.further) == {"compile"}
    importers = {id(importer_of(each)) for each in (forms.saved.models, forms.further["compile"])}
    assert len(importers) == 1
    assert importer_of(forms.saved.models) is not None


def test_package_is_packaged_again_as_it_is(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "again.nequip.zip"
    assert main(["build", str(package), str(target)]) == 0
    first, again = PackageReader(package), PackageReader(target)
    assert relations(target) == [("repackaged", first.identity, 3)]
    for member in ("model/weights.safetensors", "model/reference.safetensors"):
        assert again.read_bytes(member) == first.read_bytes(member)
    assert again.architecture == first.architecture
    assert again.sources() == first.sources()


def test_packaging_again_keeps_the_card_and_drops_signatures_with_a_note(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described, signed = tmp_path / "described.nequip.zip", tmp_path / "signed.nequip.zip"
    words = ["--set", "license=MIT", "--set", "metrics.forces_mae=0.01"]
    assert main(["card", str(package), str(described), *words]) == 0
    sign_package(PackageReader(described), signed, Ed25519PrivateKey.generate(), "A. Author")
    card = PackageReader(described).card
    assert card["license"] == "MIT"
    for source in (described, signed):
        target = tmp_path / f"again-{source.name}"
        capsys.readouterr()
        assert main(["build", str(source), str(target)]) == 0
        assert PackageReader(target).card == card
        noted = "note: signatures are of the old package" in capsys.readouterr().err
        assert noted == (source == signed)
        assert PackageReader(target).signatures() == []


def test_code_of_a_base_from_other_versions_is_kept(
    saved: SavedModel,
    fine_tune: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The base states another torch and e3nn, and its model code is not the installed one."""
    import nequip_core.distributions
    import nequip_package.export

    def marked(members: dict[str, Any]) -> dict[str, Any]:
        source = members["nequip_model/nn/gate.py"]
        return {**members, "nequip_model/nn/gate.py": source + b"\n# of another version\n"}

    unpacked = nequip_package.export._unpacked
    versions = {"torch": "2.7.0", "e3nn": "0.5.0", "nequip-core": "0.0.9", "nequip-model": "0.0.9"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nequip_package.export, "_unpacked", lambda *args: marked(unpacked(*args)))
        patch.setattr(nequip_core.distributions, "distribution_version", versions.get)
        base = build_package(saved, tmp_path / "base.nequip.zip")
    tuned = fine_tune(base, tmp_path / "tuned.ckpt")
    base.unlink()
    target = tmp_path / "new.nequip.zip"
    assert main(["build", str(tuned), str(target)]) == 0
    reader = PackageReader(target)
    assert reader.read_bytes("nequip_model/nn/gate.py").endswith(b"# of another version\n")
    assert {name: reader.metadata["versions"][name] for name in versions} == versions
    assert reader.metadata["packager_versions"]["torch"] == importlib.metadata.version("torch")


def test_models_of_two_packages_are_not_packaged_together(package: Path, tmp_path: Path) -> None:
    models = torch.nn.ModuleDict(
        {name: load_package(package).models["sole_model"] for name in ("first", "second")}
    ).eval()
    both = SavedModel(models, {}, {}, Path("both.ckpt"))
    with pytest.raises(PackagingError, match="run code from 2 packages"):
        build_package(both, tmp_path / "both.nequip.zip")


def test_packaged_and_installed_code_of_one_library_do_not_mix(
    saved: SavedModel, package: Path, tmp_path: Path
) -> None:
    models = load_package(package).models
    installed = build_models(saved.config["training_module"]["model"])["sole_model"]
    models["sole_model"].add_module("extra", installed)
    mixed = SavedModel(models.eval(), {}, {}, Path("mixed.ckpt"))
    with pytest.raises(PackagingError, match="mixes the 'nequip_model' of the package"):
        build_package(mixed, tmp_path / "mixed.nequip.zip")


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a module class of an installed library that the base package knows nothing of."""
    (tmp_path / "later_addition.py").write_text(
        "import torch\n\n\nclass Addition(torch.nn.Identity):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("later_addition").Addition
    sys.modules.pop("later_addition", None)
    linecache.checkcache()


def test_code_added_since_is_packaged_beside_that_of_the_base(
    package: Path, tmp_path: Path, wrapper: Any
) -> None:
    from dataclasses import replace

    from nequip_package.rules import collect_rules

    saved = load_package(package)
    saved.models["sole_model"].add_module("extra", wrapper())
    rules = collect_rules()
    rules = replace(rules, internal=(*rules.internal, "later_addition"))
    written = build_package(
        replace(saved, models=saved.models.eval()), tmp_path / "more.nequip.zip", rules=rules
    )
    assert "later_addition" in PackageReader(written).sources()
    assert set(PackageReader(package).sources()) < set(PackageReader(written).sources())
