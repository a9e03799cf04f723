"""The checks as pytest classes: inherit one, say which model, run pytest.

A subclass gives two class-scoped fixtures, ``config`` (builder config with ``_target_``, without
``model_dtype``) and ``strict_locality``, and overrides others where its model differs. What tests
formulas (derivatives, smoothness) runs once, in float64; what could depend on the dtype or the
device runs in each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
import torch

from nequip_core.frames import Frame, batched_from_list, to_
from nequip_core.instantiate import instantiate
from nequip_model.testing import (
    additivity,
    comparison,
    construction,
    derivatives,
    dynamics,
    locality,
    structures,
    symmetry,
)
from nequip_model.testing.devices import get_test_devices

__all__ = ["BaseEnergyModelTests", "BasicModelTestsMixin", "EnergyModelTestsMixin"]


class BasicModelTestsMixin:
    """What holds for every model of atoms, whatever it predicts."""

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> dict[str, Any]:
        """Builder config with ``_target_``, ``seed``, ``type_names``, ``r_max``; by a subclass."""
        pytest.fail(
            f"{cls.__name__}.config is missing: a fixture that returns the builder's config"
        )

    @pytest.fixture(scope="class")
    @classmethod
    def strict_locality(cls) -> bool:
        """Whether an atom sees no further than the cutoff radius; by a subclass."""
        pytest.fail(
            f"{cls.__name__}.strict_locality is missing: a fixture that returns True or False"
        )

    @pytest.fixture(scope="class", params=["float32", "float64"])
    @classmethod
    def model_dtype(cls, request: pytest.FixtureRequest) -> str:
        """Dtype of the weights."""
        return str(request.param)

    @pytest.fixture(scope="class", params=get_test_devices())
    @classmethod
    def device(cls, request: pytest.FixtureRequest) -> str:
        """Device that the model runs on."""
        return str(request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def equivariance_tol(cls, model_dtype: str) -> float:
        """Largest deviation under a symmetry, relative to the largest value of a field."""
        return {"float32": 2e-4, "float64": 1e-10}[model_dtype]

    @pytest.fixture(scope="class")
    @classmethod
    def precision_tol(cls) -> float:
        """Largest deviation of float32 from float64, relative to the largest value of a field."""
        return 2e-4

    @pytest.fixture(scope="class")
    @classmethod
    def irrep_format(cls) -> str:
        """Layout of features of known irreps: ``mul_ir`` or ``ir_mul``."""
        return "mul_ir"

    @pytest.fixture(scope="class")
    @classmethod
    def zero_prior_at_init(cls) -> bool:
        """Whether a new model predicts zero everywhere, so that nothing can be differentiated."""
        return False

    @pytest.fixture(scope="class")
    @classmethod
    def model(
        cls, config: dict[str, Any], model_dtype: str, device: str
    ) -> tuple[Any, dict[str, Any], str]:
        """The model in eval mode, its config, and the device it is on."""
        full = {**config, "model_dtype": model_dtype}
        return instantiate(full).eval().to(device), full, device

    @pytest.fixture(scope="class")
    @classmethod
    def double_model(cls, config: dict[str, Any], device: str) -> Any:
        """The model in float64 and eval mode, for what finite differences can tell."""
        return instantiate({**config, "model_dtype": "float64"}).eval().to(device)

    @pytest.fixture(scope="class")
    @classmethod
    def model_test_data(cls, config: dict[str, Any], device: str) -> list[Frame]:
        """Frames with every type: a crystal, a cluster and a slab, in units of the cutoff."""
        frames = structures.mixed_frames(config["type_names"], float(config["r_max"]))
        return [to_(frame, device) for frame in frames]

    def test_init(self, config: dict[str, Any], model_dtype: str) -> None:
        """The seed decides the weights; the ambient state neither matters nor changes."""
        full = {**config, "model_dtype": model_dtype}
        construction.check_seed(full)
        construction.check_construction(full)

    def test_model_repr(self, model: tuple[Any, Any, str]) -> None:
        """The model has a text."""
        if not str(model[0]):
            comparison.fail("text of the model", "it is empty")

    def test_forward(self, model: tuple[Any, Any, str], model_test_data: list[Frame]) -> None:
        """A call gives finite numbers, on a CPU the same bits twice, and has no side effects."""
        instance = model[0]
        for frame in [*model_test_data, batched_from_list(model_test_data)]:
            for key, value in comparison.outputs(instance, frame).items():
                if not bool(torch.isfinite(value).all()):
                    comparison.fail("prediction", f"'{key}' is not finite")
            if model[2] == "cpu":  # sums over edges have no fixed order on a GPU
                construction.check_determinism(instance, frame)
            construction.check_prediction_is_pure(instance, frame)

    def test_float32_against_float64(
        self,
        config: dict[str, Any],
        device: str,
        model_test_data: list[Frame],
        precision_tol: float,
    ) -> None:
        """The same weights give the same numbers in both dtypes, but for rounding."""

        def build(dtype: str) -> Any:
            return instantiate({**config, "model_dtype": dtype}).to(device)

        construction.check_precision(build, batched_from_list(model_test_data), precision_tol)

    def test_wrapped_unwrapped(
        self,
        model: tuple[Any, Any, str],
        model_test_data: list[Frame],
        equivariance_tol: float,
    ) -> None:
        """Any image of an atom does."""
        symmetry.check_lattice_shifts(model[0], model_test_data[0], equivariance_tol)

    def test_batch(
        self,
        model: tuple[Any, Any, str],
        model_test_data: list[Frame],
        equivariance_tol: float,
    ) -> None:
        """A batch gives what its frames give alone."""
        additivity.check_batching(model[0], model_test_data, equivariance_tol)

    def test_equivariance(
        self,
        model: tuple[Any, Any, str],
        model_test_data: list[Frame],
        equivariance_tol: float,
        irrep_format: str,
    ) -> None:
        """Rotation, inversion, translation and permutation act on the output as on the input."""
        batch = batched_from_list(model_test_data)
        symmetry.check_rotation(model[0], batch, equivariance_tol, irrep_format=irrep_format)
        symmetry.check_translation(model[0], batch, equivariance_tol)
        symmetry.check_permutation(model[0], batch, equivariance_tol)
        symmetry.check_edge_order(model[0], batch, equivariance_tol)

    def test_embedding_cutoff(
        self,
        model: tuple[Any, Any, str],
        model_test_data: list[Frame],
        equivariance_tol: float,
    ) -> None:
        """Edges beyond the cutoff have no effect."""
        locality.check_longer_neighbor_list(model[0], model_test_data[0], equivariance_tol)


class EnergyModelTestsMixin(BasicModelTestsMixin):
    """What holds for a potential energy surface and its derivatives."""

    @pytest.fixture(scope="class")
    @classmethod
    def isolated_atom_energies(cls, config: dict[str, Any]) -> list[float]:
        """Energy of an atom alone, by type; default ``per_type_energy_shifts`` of the config."""
        shifts = config.get("per_type_energy_shifts") or 0.0
        if isinstance(shifts, Mapping):
            return [float(shifts[name]) for name in config["type_names"]]
        return [float(shifts)] * len(config["type_names"])

    @pytest.fixture(scope="class")
    @classmethod
    def parameters_without_gradient(cls) -> Collection[str]:
        """Names of trainable parameters that energy, forces and stress do not depend on."""
        return ()

    @pytest.fixture(scope="class")
    @classmethod
    def differentiable(cls, zero_prior_at_init: bool) -> None:
        """Skips where a new model is zero everywhere: there is nothing to differentiate."""
        if zero_prior_at_init:
            pytest.skip("the model states that it predicts zero at initialisation")

    def test_large_separation(
        self, model: tuple[Any, Any, str], config: dict[str, Any], equivariance_tol: float
    ) -> None:
        """Two clusters far apart have the sum of their energies."""
        instance, _, device = model
        radius = float(config["r_max"])
        cluster = to_(structures.mixed_frames(config["type_names"], radius)[1], device)
        other = to_(structures.chain(config["type_names"], radius, 4), device)
        additivity.check_separation(instance, cluster, other, equivariance_tol)

    def test_supercell(
        self,
        model: tuple[Any, Any, str],
        model_test_data: list[Frame],
        equivariance_tol: float,
    ) -> None:
        """The energy is extensive."""
        additivity.check_supercell(model[0], model_test_data[0], equivariance_tol, repeat=(2, 1, 1))

    def test_isolated_atom_energies(
        self,
        model: tuple[Any, Any, str],
        isolated_atom_energies: list[float],
        equivariance_tol: float,
    ) -> None:
        """An atom alone has the energy of its type, and no force."""
        additivity.check_isolated_atoms(model[0], isolated_atom_energies, equivariance_tol)

    def test_net_force_and_torque(
        self,
        model: tuple[Any, Any, str],
        model_test_data: list[Frame],
        equivariance_tol: float,
    ) -> None:
        """The forces on a cluster neither move nor turn it."""
        derivatives.check_net_force_and_torque(model[0], model_test_data[1], equivariance_tol)

    def test_cross_frame_grad(self, double_model: Any, model_test_data: list[Frame]) -> None:
        """The energy of a frame has no gradient in the atoms of another."""
        additivity.check_frames_are_independent(double_model, model_test_data)

    def test_numeric_gradient(
        self, double_model: Any, model_test_data: list[Frame], differentiable: None
    ) -> None:
        """Forces, virial and stress are derivatives of the energy."""
        for frame in model_test_data[:2]:
            derivatives.check_forces(double_model, frame)
            derivatives.check_stress(double_model, frame)

    def test_force_jacobian(
        self, double_model: Any, model_test_data: list[Frame], differentiable: None
    ) -> None:
        """The derivative of the forces is symmetric."""
        derivatives.check_force_jacobian(double_model, model_test_data[1])

    def test_partial_forces(
        self,
        double_model: Any,
        config: dict[str, Any],
        device: str,
        strict_locality: bool,
        differentiable: None,
    ) -> None:
        """Derivatives of atomic energies sum to the forces, and are as local as stated."""
        frame = to_(structures.chain(config["type_names"], float(config["r_max"])), device)
        derivatives.check_partial_forces(double_model, frame, strict_locality=strict_locality)

    def test_parameter_gradients(
        self,
        double_model: Any,
        model_test_data: list[Frame],
        parameters_without_gradient: Collection[str],
        differentiable: None,
    ) -> None:
        """A loss on energy, forces and stress has the right gradient in every parameter."""
        if not any(p.requires_grad for p in double_model.parameters()):
            pytest.skip("the model has no trainable parameter")
        derivatives.check_parameter_gradients(
            double_model, model_test_data[:2], without_gradient=parameters_without_gradient
        )

    def test_force_smoothness(
        self, double_model: Any, config: dict[str, Any], device: str, differentiable: None
    ) -> None:
        """Energy and forces are continuous where an atom crosses the cutoff."""
        with torch.device(device):
            locality.check_smooth_cutoff(double_model, len(config["type_names"]))

    def test_energy_conservation(
        self, double_model: Any, model_test_data: list[Frame], differentiable: None
    ) -> None:
        """A short trajectory keeps its energy."""
        dynamics.check_energy_conservation(double_model, model_test_data[1])


class BaseEnergyModelTests(EnergyModelTestsMixin):
    """Everything this distribution can check of an energy model."""
