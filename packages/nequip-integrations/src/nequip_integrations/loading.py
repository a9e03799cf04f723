"""From a file to a model that an engine runs: what adapters of engines inherit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nequip_core.compiled import load_compiled_model
from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.errors import ConfigError
from nequip_core.fields import FORCE_KEY, TOTAL_ENERGY_KEY
from nequip_core.files import require_suffix
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.runtime import open_model
from nequip_core.saved_model import SOLE_MODEL, load_saved_model, local_file, select_model
from nequip_integrations.preparation import Transform, input_transforms

if TYPE_CHECKING:
    from typing import Self

    import torch

    from nequip_core.compile_targets import CompileTarget
    from nequip_core.opened import OpenedModel

__all__ = ["DEFAULT_SKIN", "ModelLoading", "require_positive"]

DEFAULT_SKIN = 0.5
"""Skin of the neighbor list that an adapter keeps, Angstrom."""

_NEEDED = (TOTAL_ENERGY_KEY, FORCE_KEY)


class ModelLoading:
    """Constructors of an adapter from files.

    The class that inherits takes ``(model, device, transforms=..., **kwargs)``, and
    ``length_units_to_A`` among them.
    """

    compile_target: ClassVar[CompileTarget]
    """What the engine hands to a compiled model, and wants back."""

    way: str
    """One line: in which way the model runs, and why."""

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
        model = load_compiled_model(compile_path, device)
        if any(name not in model.outputs for name in _NEEDED):
            raise ConfigError(
                f"'{compile_path}' returns {list(model.outputs)}, and {list(_NEEDED)} are needed: "
                f"compile with --target {cls.compile_target.name}"
            )
        transforms = _transforms(
            model,
            model.per_edge_type_cutoff,
            chemical_species_to_atom_type_map,
            neighborlist_backend,
            neighborlist_skin,
            kwargs,
        )
        return cls._made(
            model, model.device, transforms, f"compiled, from '{compile_path}'", kwargs
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
        model = select_model(load_saved_model(model_path, trust_code), model_name)
        text = model.metadata.get("per_edge_type_cutoff")  # type: ignore[union-attr, operator]
        transforms = _transforms(
            model,
            cutoff_table_from_text(text, len(model.type_names)),  # type: ignore[arg-type]
            chemical_species_to_atom_type_map,
            neighborlist_backend,
            neighborlist_skin,
            kwargs,
        )
        way = f"'{model_path}' runs without compilation (eager), as asked"
        return cls._made(model, device, transforms, way, kwargs)

    @classmethod
    def _made(
        cls, model: Any, device: Any, transforms: list[Transform], way: str, kwargs: dict[str, Any]
    ) -> Self:
        adapter = cls(model, device, transforms=transforms, **kwargs)  # type: ignore[call-arg]
        adapter.way = way
        return adapter

    @classmethod
    def _opened(
        cls,
        source: str | os.PathLike[str],
        device: str | torch.device,
        transforms: Sequence[Transform],
        length_units_to_A: float,
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None,
        neighborlist_backend: str,
        neighborlist_skin: float,
        allow_tf32: bool,
        **settings: Any,
    ) -> tuple[OpenedModel, list[Transform]]:
        """Return a model opened in the best way there is, and the transforms for it.

        Raises:
            ConfigError: see `nequip_core.runtime.open_model`, which raises others, too.
        """
        arguments: dict[str, Any] = {"length_units_to_A": length_units_to_A}
        if transforms:
            arguments["transforms"] = transforms
        _require_made_here(arguments)
        opened = open_model(
            source,
            device,
            target=cls.compile_target,
            outputs=_NEEDED,
            tf32=allow_tf32,
            **settings,
        )
        return opened, _transforms(
            opened,
            opened.per_edge_type_cutoff,
            chemical_species_to_atom_type_map,
            neighborlist_backend,
            neighborlist_skin,
            arguments,
        )


def require_positive(name: str, value: float) -> None:
    """Check a unit.

    Raises:
        ConfigError: it is not a positive number.
    """
    if not (math.isfinite(value) and value > 0.0):
        raise ConfigError(f"{name} must be a positive number, got {value!r}")


def _transforms(
    model: Any,
    cutoffs: list[list[float]] | None,
    species: Mapping[str, str] | bool | None,
    backend: str,
    skin: float,
    arguments: dict[str, Any],
) -> list[Transform]:
    unit = _require_made_here(arguments)
    skin = skin / unit  # the model's unit of length
    return input_transforms(model.type_names, float(model.r_max), cutoffs, species, backend, skin)


def _require_made_here(arguments: dict[str, Any]) -> float:
    """Return the unit of length among the arguments, which have no transforms.

    Raises:
        ConfigError: they have, or the unit is not positive.
    """
    if "transforms" in arguments:
        raise ConfigError(
            "transforms are made from the model here; to give your own, call the class with a "
            "model that is loaded already, not with its path"
        )
    unit = arguments.get("length_units_to_A", 1.0)
    require_positive("length_units_to_A", unit)
    return unit
