"""From a file to a model that an engine runs: what adapters of engines inherit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nequip_core.compiled import load_compiled_model
from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.errors import ConfigError
from nequip_core.fields import FORCE_KEY, TOTAL_ENERGY_KEY
from nequip_core.files import require_suffix
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.runtime import open_model
from nequip_core.saved_model import (
    SOLE_MODEL,
    is_reference,
    load_saved_model,
    local_file,
    select_model,
)
from nequip_core.stated_facts import FACTS_KEY, facts_from_text, stated_facts
from nequip_integrations.declared_units import length_unit, require_positive, units_of
from nequip_integrations.preparation import Transform, input_transforms

if TYPE_CHECKING:
    from typing import Self

    import torch

    from nequip_core.compile_targets import CompileTarget

__all__ = ["DEFAULT_SKIN", "Loaded", "ModelLoading", "Recipe"]

DEFAULT_SKIN = 0.5
"""Skin of the neighbor list that an adapter keeps, Angstrom."""

_NEEDED = (TOTAL_ENERGY_KEY, FORCE_KEY)


Recipe = tuple[str, dict[str, Any]]
"""How a model was opened: the method of `ModelLoading`, and its arguments."""


@dataclass
class Loaded:
    """A model with what an adapter needs of it."""

    model: Any
    """From the input of a structure to its output fields."""
    device: str | torch.device
    """Where it is to run."""
    transforms: Sequence[Transform]
    """What makes its input."""
    way: str
    """One line: in which way it runs, and why."""
    recipe: Recipe | None = None
    """How to open it again; None for a model that came loaded."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What its file states of units and training set, see `nequip_core.stated_facts`."""


class ModelLoading:
    """Constructors of an adapter from files.

    The class that inherits takes ``(model, device, transforms=..., **kwargs)``, and
    ``length_units_to_A`` among them.
    """

    compile_target: ClassVar[CompileTarget]
    """What the engine hands to a compiled model, and wants back."""

    keeps_neighbor_list: ClassVar[bool] = True
    """Whether structures follow each other, so that a list with a skin serves several."""

    way: str
    """One line: in which way the model runs, and why."""
    recipe: Recipe | None
    """How to open the model again, None if it came loaded."""
    facts: Mapping[str, Any]
    """What the model's file states of units and training set."""

    @classmethod
    def from_compiled_model(
        cls,
        compile_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        **kwargs: Any,
    ) -> Self:
        """Return the calculator of a compiled model, ``.nequip.pth``, or a fitting ``.nequip.pt2``.

        The file is used as it is or refused; the class itself, called with the path, compiles a
        file that does not fit this machine again if what it was made of is beside it.

        Args:
            compile_path: the compiled model.
            device: where to run; of the kind the model was compiled for.
            chemical_species_to_atom_type_map: chemical symbol -> type name, needed where type
                names are not chemical symbols.
            neighborlist_backend: name of a backend, see `nequip_core.neighbors`; ``torch`` makes
                the list on the device.
            neighborlist_skin: how much further than the cutoff the neighbor list reaches that is
                kept from one structure to the next, Angstrom. Results do not depend on it; 0
                makes a new list at every step.
            **kwargs: of the class, other than `transforms`.

        Raises:
            MissingFileError: there is no such file.
            FileFormatError: the file is not a compiled model that runs here.
            ConfigError: the device, the species map or the file's target does not fit.
        """
        return cls._made(
            "_compiled",
            kwargs,
            compile_path,
            device,
            {
                "species": chemical_species_to_atom_type_map,
                "backend": neighborlist_backend,
                "skin": neighborlist_skin,
            },
        )

    @classmethod
    def from_package(
        cls,
        package_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        model_name: str = SOLE_MODEL,
        trust_code: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the calculator of a ``.nequip.zip`` package, run without compilation.

        Args:
            package_path: the package, or its name in a repository.
            device: where to run.
            chemical_species_to_atom_type_map: see `from_compiled_model`.
            neighborlist_backend: see `from_compiled_model`.
            neighborlist_skin: see `from_compiled_model`.
            model_name: which model of the package.
            trust_code: True consents to running the code that the file carries, False refuses it;
                None: see `nequip_core.archive.loading.load_package`.
            **kwargs: of the class, other than `transforms`.

        Raises:
            MissingFileError: there is no such file.
            FileFormatError: the file is not a package.
            ConfigError: the species map does not fit, or there is no such model.
            TrustError: code in the file may not run, and it cannot be loaded without.
        """
        return cls._from_saved_model(
            require_suffix(local_file(package_path), ".nequip.zip", "package"),
            device,
            chemical_species_to_atom_type_map,
            model_name=model_name,
            neighborlist_backend=neighborlist_backend,
            neighborlist_skin=neighborlist_skin,
            trust_code=trust_code,
            **kwargs,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        model_name: str = SOLE_MODEL,
        trust_code: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the calculator of a ``.ckpt`` checkpoint; needs nequip-model.

        Args:
            checkpoint_path: the checkpoint.
            device: where to run.
            chemical_species_to_atom_type_map: see `from_compiled_model`.
            neighborlist_backend: see `from_compiled_model`.
            neighborlist_skin: see `from_compiled_model`.
            model_name: which model of the checkpoint.
            trust_code: see `from_package`.
            **kwargs: of the class, other than `transforms`.

        Raises:
            MissingFileError: there is no such file.
            FileFormatError: the file is not a checkpoint of this project.
            MissingDependencyError: nequip-model is not installed.
            ConfigError: the species map does not fit, or there is no such model.
            TrustError: code in the file may not run, and it cannot be loaded without.
        """
        return cls._from_saved_model(
            require_suffix(checkpoint_path, ".ckpt", "checkpoint"),
            device,
            chemical_species_to_atom_type_map,
            model_name=model_name,
            neighborlist_backend=neighborlist_backend,
            neighborlist_skin=neighborlist_skin,
            trust_code=trust_code,
            **kwargs,
        )

    @classmethod
    def _from_saved_model(
        cls,
        model_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        allow_tf32: bool = False,
        model_name: str = SOLE_MODEL,
        compile_mode: str = "eager",
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        trust_code: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the calculator of a checkpoint or package; a name that other tools know.

        Raises:
            ConfigError: TF32 or a compile mode is asked for; see also `from_package`.
        """
        if allow_tf32 or compile_mode != "eager":
            raise ConfigError(
                "saved models run as they are: allow_tf32 must be False and compile_mode 'eager', "
                f"got {allow_tf32!r} and {compile_mode!r}; {cls.__name__}('{model_path}') compiles"
            )
        return cls._made(
            "_eager",
            kwargs,
            model_path,
            device,
            {
                "species": chemical_species_to_atom_type_map,
                "backend": neighborlist_backend,
                "skin": neighborlist_skin,
                "model_name": model_name,
                "trust_code": trust_code,
            },
        )

    @classmethod
    def _made(
        cls, method: str, kwargs: dict[str, Any], source: Any, device: Any, settings: dict[str, Any]
    ) -> Self:
        """Return the adapter of a file; `kwargs` are those of the class."""
        unit = _require_made_here(kwargs)
        arguments = {"source": source, "device": device, "length_units_to_A": unit, **settings}
        loaded = cls._loaded((method, arguments))
        adapter = cls(  # type: ignore[call-arg]
            loaded.model,
            device=loaded.device,
            transforms=loaded.transforms,
            **{**kwargs, **units_of(loaded.facts, kwargs)},
        )
        adapter.way, adapter.recipe, adapter.facts = loaded.way, loaded.recipe, loaded.facts
        return adapter

    @classmethod
    def _loaded(cls, recipe: Recipe) -> Loaded:
        """Return the model of a file, opened as a recipe says, which is kept with it."""
        method, arguments = recipe
        loaded: Loaded = getattr(cls, method)(**arguments)
        source = arguments["source"]
        if not is_reference(source):  # the working directory may be another one by then
            source = str(Path(source).absolute())
        loaded.recipe = (method, {**arguments, "source": source})
        return loaded

    @classmethod
    def _given(cls, model: Any, device: Any, transforms: Sequence[Transform]) -> Loaded:
        return Loaded(model, device, transforms, "the model that was given, as it is")

    @classmethod
    def _compiled(
        cls,
        source: Any,
        device: Any,
        length_units_to_A: float | None,
        species: Any,
        backend: str,
        skin: float,
    ) -> Loaded:
        model = load_compiled_model(source, device)
        if any(name not in model.outputs for name in _NEEDED):
            raise ConfigError(
                f"'{source}' returns {list(model.outputs)}, and {list(_NEEDED)} are needed: "
                f"compile with --target {cls.compile_target.name}"
            )
        facts = facts_from_text(model.metadata.get(FACTS_KEY, ""))
        skin = skin / length_unit(facts, length_units_to_A)
        cutoffs = model.per_edge_type_cutoff
        transforms = cls._transforms(model, cutoffs, species, backend, skin)
        way = f"compiled, from '{source}'"
        return Loaded(model, model.device, transforms, way, facts=facts)

    @classmethod
    def _eager(
        cls,
        source: Any,
        device: Any,
        length_units_to_A: float | None,
        species: Any,
        backend: str,
        skin: float,
        model_name: str,
        trust_code: bool | None,
    ) -> Loaded:
        saved = load_saved_model(source, trust_code)
        model, facts = select_model(saved, model_name), stated_facts(saved)
        skin = skin / length_unit(facts, length_units_to_A)
        text = model.metadata.get("per_edge_type_cutoff")  # type: ignore[union-attr, operator]
        cutoffs = cutoff_table_from_text(text, len(model.type_names))  # type: ignore[arg-type]
        transforms = cls._transforms(model, cutoffs, species, backend, skin)
        way = f"'{source}' runs without compilation (eager), as asked"
        return Loaded(model, device, transforms, way, facts=facts)

    @classmethod
    def _opened(
        cls,
        source: str | os.PathLike[str],
        device: str | torch.device,
        transforms: Sequence[Transform],
        length_units_to_A: float | None,
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None,
        neighborlist_backend: str,
        neighborlist_skin: float,
        allow_tf32: bool,
        **settings: Any,
    ) -> Loaded:
        """Return a model opened in the best way there is.

        Raises:
            ConfigError: see `nequip_core.runtime.open_model`, which raises others, too.
        """
        if transforms:
            _require_made_here({"transforms": transforms})
        opened = open_model(
            source,
            device,
            target=cls.compile_target,
            outputs=_NEEDED,
            tf32=allow_tf32,
            **settings,
        )
        made = cls._transforms(
            opened,
            opened.per_edge_type_cutoff,
            chemical_species_to_atom_type_map,
            neighborlist_backend,
            neighborlist_skin / length_unit(opened.facts, length_units_to_A),
        )
        return Loaded(opened.model, opened.device, made, opened.way, facts=opened.facts)

    @classmethod
    def _transforms(
        cls,
        model: Any,
        cutoffs: list[list[float]] | None,
        species: Mapping[str, str] | bool | None,
        backend: str,
        skin: float,
    ) -> list[Transform]:
        skin = skin if cls.keeps_neighbor_list or skin < 0.0 else 0.0
        names, r_max = model.type_names, float(model.r_max)
        return input_transforms(names, r_max, cutoffs, species, backend, skin)


def _require_made_here(arguments: dict[str, Any]) -> float | None:
    """Return the unit of length among the arguments, if any, which have no transforms.

    Raises:
        ConfigError: they have, or the unit is not positive.
    """
    if "transforms" in arguments:
        raise ConfigError(
            "transforms are made from the model here; to give your own, call the class with a "
            "model that is loaded already, not with its path"
        )
    unit: float | None = arguments.get("length_units_to_A")
    if unit is not None:
        require_positive("length_units_to_A", unit)
    return unit
