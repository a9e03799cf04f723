"""OpenMM runs our models: numbers of ASE, directly and through OpenMM-ML, and failures stop it."""

import numpy as np
import pytest

openmm = pytest.importorskip("openmm", reason="pip install openmm openmmml")
openmmml = pytest.importorskip("openmmml", reason="pip install openmmml")

import torch  # noqa: E402
from openmm import app, unit  # noqa: E402

from nequip_core.compile_targets import ASE  # noqa: E402
from nequip_core.errors import ConfigError, DataError, UnknownSpeciesError  # noqa: E402
from nequip_integrations.openmm import KJ_PER_MOL_IN_EV, NequIPForce  # noqa: E402
from nequip_integrations.openmm_ml import NequIPPotentialImplFactory, register  # noqa: E402


def topology_of(atoms):
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for number in atoms.numbers:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, residue)
    if atoms.pbc.any():
        topology.setPeriodicBoxVectors(np.asarray(atoms.cell) / 10.0 * unit.nanometer)
    return topology


def system_of(atoms):
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    if atoms.pbc.any():
        system.setDefaultPeriodicBoxVectors(*(np.asarray(atoms.cell) / 10.0))
    return system


def context_of(system, atoms, integrator=None):
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(atoms.positions / 10.0)
    return context


def results(context):
    state = context.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return energy / KJ_PER_MOL_IN_EV, forces / KJ_PER_MOL_IN_EV / 10.0


def assert_same(context, atoms, reference):
    energy, forces = results(context)
    wanted = reference(atoms)
    assert energy == pytest.approx(wanted["energy"], abs=1e-10)
    np.testing.assert_allclose(forces, wanted["forces"], atol=1e-10)


@pytest.fixture(params=["package", "script"])
def force(request, package, script):
    if request.param == "package":
        return NequIPForce.from_package(package)
    return NequIPForce.from_compiled_model(script(ASE))


@pytest.mark.parametrize("name", ["crystal", "molecule"])
def test_force_agrees_with_ase(force, name, request, reference):
    atoms = request.getfixturevalue(name)
    system = system_of(atoms)
    force.add_to(system, topology_of(atoms))
    assert_same(context_of(system, atoms), atoms, reference)


def test_atoms_far_outside_of_the_box_agree_with_ase(force, crystal, reference):
    crystal.positions[::2] += 3 * crystal.cell[1] - crystal.cell[2]
    system = system_of(crystal)
    force.add_to(system, topology_of(crystal))
    assert_same(context_of(system, crystal), crystal, reference)


def test_model_of_some_particles_leaves_the_others_alone(force, molecule, reference):
    chosen = [5, 0, 2]
    system = system_of(molecule)
    force.add_to(system, topology_of(molecule), atoms=chosen)
    energy, forces = results(context_of(system, molecule))
    wanted = reference(molecule[chosen])
    assert energy == pytest.approx(wanted["energy"], abs=1e-10)
    np.testing.assert_allclose(forces[chosen], wanted["forces"], atol=1e-10)
    assert not forces[[1, 3, 4]].any()


def test_constant_energy_run_follows_ase(package, crystal):
    from ase import units
    from ase.md.verlet import VelocityVerlet

    from nequip_integrations.ase import NequIPCalculator

    system = system_of(crystal)
    NequIPForce.from_package(package).add_to(system, topology_of(crystal))
    # Leapfrog: velocities at half steps are those of velocity Verlet half a step later.
    context = context_of(system, crystal)
    crystal.calc = NequIPCalculator.from_package(package)
    picosecond = 1000.0 * units.fs
    half = 0.5 * 0.0005 * picosecond * crystal.get_forces() / crystal.get_masses()[:, None]
    context.setVelocities(-half / 10.0 * picosecond)
    context.getIntegrator().step(50)
    VelocityVerlet(crystal, 0.5 * units.fs).run(50)
    found = context.getState(positions=True).getPositions(asNumpy=True)
    np.testing.assert_allclose(found.value_in_unit(unit.angstrom), crystal.positions, atol=1e-6)


def test_system_is_written_and_read_again(force, crystal, reference):
    system = system_of(crystal)
    force.add_to(system, topology_of(crystal))
    text = openmm.XmlSerializer.serialize(system)
    assert_same(context_of(openmm.XmlSerializer.deserialize(text), crystal), crystal, reference)


@pytest.fixture
def registered():
    potentials = openmmml.MLPotential._implFactories
    before = dict(potentials)
    register()
    yield
    potentials.clear()
    potentials.update(before)


@pytest.mark.parametrize("kind", ["package", "script"])
def test_openmm_ml_with_our_factory_agrees_with_ase(
    kind, package, script, crystal, reference, registered
):
    path = package if kind == "package" else script(ASE)
    potential = openmmml.MLPotential(
        "nequip", modelPath=str(path), lengthScale=0.1, energyScale=KJ_PER_MOL_IN_EV, compile=False
    )
    system = potential.createSystem(topology_of(crystal), device="cpu")
    assert_same(context_of(system, crystal), crystal, reference)
    with pytest.raises(ConfigError, match="the model computes in float64, and precision='single'"):
        potential.createSystem(topology_of(crystal), precision="single")


def test_openmm_ml_by_itself_runs_our_files(package, crystal, reference):
    pytest.importorskip("nequip", reason="OpenMM-ML imports the package nequip")
    potential = openmmml.MLPotential(
        "nequip", modelPath=str(package), lengthScale=0.1, energyScale=KJ_PER_MOL_IN_EV
    )
    system = potential.createSystem(topology_of(crystal), device="cpu")
    assert_same(context_of(system, crystal), crystal, reference)


def test_units_of_the_model_are_scaled(package, crystal):
    scale = {"lengthScale": 0.05, "energyScale": 2.0}
    impl = NequIPPotentialImplFactory().createImpl("nequip", str(package), **scale, compile=False)
    system = system_of(crystal)
    impl.addForces(topology_of(crystal), system, None, 0, device="cpu")
    smaller = crystal.copy()
    smaller.set_cell(crystal.cell * 0.5, scale_atoms=True)
    wanted = NequIPForce.from_package(package)
    doubled = system_of(crystal)
    wanted.add_to(doubled, topology_of(crystal))
    context = context_of(system, smaller)
    context.setPeriodicBoxVectors(*(np.asarray(smaller.cell) / 10.0))
    energy, forces = results(context)
    unscaled, unscaled_forces = results(context_of(doubled, crystal))
    assert energy == pytest.approx(unscaled * 2.0 / KJ_PER_MOL_IN_EV, rel=1e-9)
    expected = unscaled_forces * 4.0 / KJ_PER_MOL_IN_EV
    np.testing.assert_allclose(forces, expected, rtol=1e-8, atol=1e-10)


def test_types_may_be_given_in_place_of_elements(force, crystal, reference):
    types = [["H", "C", "O"].index(symbol) for symbol in crystal.symbols]
    other = crystal.copy()
    other.symbols[:] = "Ar"
    system = system_of(crystal)
    force.add_to(system, topology_of(other), atom_types=types)
    assert_same(context_of(system, crystal), crystal, reference)
    with pytest.raises(DataError, match="12 particles, but 3 atom types"):
        force.add_to(system_of(crystal), topology_of(other), atom_types=[0, 1, 2])
    with pytest.raises(ConfigError, match="atom_types must be from 0 to 2"):
        force.add_to(system_of(crystal), topology_of(other), atom_types=[3] * 12)


def test_unknown_species_is_named_before_the_run(force, crystal):
    crystal.symbols[4] = "Xe"
    with pytest.raises(UnknownSpeciesError, match=r"species Xe \(first at atom 4\)"):
        force.add_to(system_of(crystal), topology_of(crystal))


@pytest.mark.parametrize("failure", ["nan", "memory"])
def test_failing_model_stops_the_run_and_leaves_the_trajectory_whole(
    package, crystal, tmp_path, failure
):
    force = NequIPForce.from_package(package)
    inner, calls = force.model, []

    def failing(data):
        calls.append(1)
        out = dict(inner(data))
        if len(calls) > 6 and failure == "memory":
            raise torch.OutOfMemoryError("out of memory")
        if len(calls) > 6:
            out["forces"] = out["forces"] * torch.nan
        return out

    force.model = failing
    topology, system = topology_of(crystal), system_of(crystal)
    force.add_to(system, topology)
    platform = openmm.Platform.getPlatformByName("Reference")
    run = app.Simulation(topology, system, openmm.VerletIntegrator(0.0005), platform)
    run.context.setPositions(crystal.positions / 10.0)
    file = tmp_path / "run.dcd"
    run.reporters.append(app.DCDReporter(str(file), 1))
    message = {"nan": "forces of atom 0 that is not a finite number", "memory": "too little memory"}
    with pytest.raises(Exception, match=message[failure]):
        run.step(20)
    frames = int.from_bytes(file.read_bytes()[8:12], "little")
    size = 276 + frames * (56 + 3 * (4 * len(crystal) + 8))
    assert 3 <= frames <= 7 and file.stat().st_size == size
