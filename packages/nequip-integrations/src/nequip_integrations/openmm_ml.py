"""OpenMM-ML's ``MLPotential('nequip', ...)`` served by this package.

OpenMM-ML has an entry of that name, which imports the package ``nequip``. `register` puts ours in
its place for the running process: it takes files of every kind, compiled ones too, needs no
training stack, and checks species and results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nequip_core.errors import ConfigError
from nequip_integrations.absent import absent
from nequip_integrations.openmm import KJ_PER_MOL_IN_EV, NequIPForce

if TYPE_CHECKING:
    import openmm
    from openmmml.mlpotential import MLPotential, MLPotentialImpl, MLPotentialImplFactory
else:
    try:
        from openmmml.mlpotential import MLPotential, MLPotentialImpl, MLPotentialImplFactory
    except ImportError as error:
        MLPotentialImpl = MLPotentialImplFactory = absent("OpenMM-ML", "openmm", error)

__all__ = ["NequIPPotentialImplFactory", "register"]

_PRECISION = {"single": "float32", "double": "float64"}


class NequIPPotentialImplFactory(MLPotentialImplFactory):
    """Makes the implementation of ``MLPotential('nequip', modelPath, lengthScale, energyScale)``."""  # noqa: E501

    def createImpl(  # noqa: N802
        self,
        name: str,
        modelPath: str,
        lengthScale: float | None = None,
        energyScale: float | None = None,
        **kwargs: Any,
    ) -> MLPotentialImpl:
        """Return the implementation.

        Args:
            name: of the potential.
            modelPath: a model of any kind.
            lengthScale: nm in one length unit of the model; default: what its file declares, else
                that of an Angstrom.
            energyScale: kJ/mol in one energy unit of the model; default likewise, else an eV.
            **kwargs: further arguments of `openmm.NequIPForce`.
        """
        scales = {
            "length_units_to_A": None if lengthScale is None else 10.0 * lengthScale,
            "energy_units_to_eV": None if energyScale is None else energyScale / KJ_PER_MOL_IN_EV,
        }
        return _NequIPPotentialImpl(name, modelPath, {**scales, **kwargs})


class _NequIPPotentialImpl(MLPotentialImpl):
    def __init__(self, name: str, path: str, arguments: dict[str, Any]) -> None:
        self.name, self.path, self.arguments = name, path, arguments

    def addForces(  # noqa: N802
        self,
        topology: openmm.app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        precision: str | None = None,
        atomTypes: Sequence[int] | None = None,
        **args: Any,
    ) -> None:
        """Open the model and add its force, see `openmm.NequIPForce.add_to`.

        Raises:
            ConfigError: another precision than the model's is asked for.
        """
        force = NequIPForce(self.path, self._getTorchDevice(args), **self.arguments)
        dtype = str(getattr(force.model, "model_dtype", "")).removeprefix("torch.")
        if precision is not None and _PRECISION.get(precision) != dtype:
            raise ConfigError(
                f"the model computes in {dtype}, and precision={precision!r} asks for another; "
                "leave it out"
            )
        force.add_to(system, topology, atoms, forceGroup, atomTypes)


def register(name: str = "nequip") -> None:
    """Let ``MLPotential(name, modelPath=...)`` make its forces here, in this process.

    Raises:
        MissingDependencyError: OpenMM-ML is not installed.
    """
    factory = NequIPPotentialImplFactory()  # says what to install where OpenMM-ML is missing
    MLPotential.registerImplFactory(name, factory)
