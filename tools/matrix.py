"""Run the compatibility matrix: write archives, read archives, run the bounded subset.

Usage: python tools/matrix.py write NAME | read NAME [--no-compile] | subset

Names are those of environments.toml. `write` fills .nox/matrix/corpora/NAME; `read` reads every
folder there and the committed goldens, and writes .nox/matrix/results/NAME.json. An environment
that pip must refuse is proved to be refused. `--discard` removes the environment afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from environments import DATA, WORK, Environment, check_refusal, expected_versions, make
from environments import read_environments as environments_of
from released_wheels import ROOT

SCRIPTS = ROOT / "tests" / "compat" / "archives"
GOLDEN = ROOT / "tests" / "golden"
CORPORA, RESULTS = WORK / "corpora", WORK / "results"
# The writers whose package a reader compiles: the releases, as users have them.
COMPILED_WRITERS = ("0.1.0", "0.2.0")


def run_script(environment: Environment, script: str, *arguments: str) -> int:
    """Return the exit code of a script in an environment; neither checkout nor user lends code."""
    command = [make(environment), "-I", str(SCRIPTS / script), *arguments]
    command += ["--name", environment.name, "--expect", *expected_versions(environment)]
    caches = dict.fromkeys(("NEQUIP_STATISTICS_CACHE", "NEQUIP_FRAME_CACHE"), "off")
    threads = {"OMP_NUM_THREADS": "1", **caches}
    return subprocess.run(command, env={**os.environ, **threads}, check=False).returncode


def refused(environment: Environment) -> int:
    """Return 0 if pip refuses an environment as named; record that for the report."""
    check_refusal(environment)
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"reader": environment.name, "refused": environment.refused, "date": today()}
    (RESULTS / f"{environment.name}.json").write_text(f"{json.dumps(content, indent=1)}\n")
    print(f"pip refuses '{environment.name}', as it must: {environment.refused}")
    return 0


def today() -> str:
    """Return the date, UTC."""
    return datetime.now(UTC).date().isoformat()


def write(environment: Environment) -> int:
    """Write the archives of an environment; return the exit code."""
    if environment.refused:
        return refused(environment)
    return run_script(environment, "archives_write.py", str(CORPORA / environment.name))


def read(environment: Environment, corpora: list[Path], compiled: bool) -> int:
    """Read archive folders in an environment; return the exit code."""
    if environment.refused:
        return refused(environment)
    if not corpora:
        raise SystemExit(f"no archives below {CORPORA}: run archives_write first")
    WORK.mkdir(parents=True, exist_ok=True)
    known = WORK / "known.json"
    known.write_text(json.dumps(tomllib.loads(DATA.read_text())["known_bad"]))
    options = ["--known", str(known)]
    if compiled:
        options += [f"--compile={writer}" for writer in COMPILED_WRITERS]
    report = RESULTS / f"{environment.name}.json"
    return run_script(environment, "archives_read.py", str(report), *map(str, corpora), *options)


def golden_corpora() -> list[Path]:
    """Return folders made of the committed goldens, in the layout that readers take.

    Those of ``nequip`` itself are kept compressed: they are stored as torch wrote them.
    """
    import torch
    from safetensors.torch import load_file, save_file

    target = WORK / "goldens"
    shutil.rmtree(target, ignore_errors=True)
    found = []
    for folder in sorted(GOLDEN.glob("format*/SHA256SUMS")):
        golden = folder.parent
        corpus = target / f"golden-{golden.name}"
        corpus.mkdir(parents=True)
        shutil.copyfile(golden / "model.nequip.zip", corpus / "package.nequip.zip")
        tensors = load_file(golden / "frames.safetensors")
        record = {f"sole_model/{name}": value for name, value in tensors.items()}
        save_file(record, corpus / "package.safetensors")
        types, number = ["Cu", "Au"], int(golden.name.removeprefix("format").partition("-")[0])
        write_list(corpus, {"nequip-core": golden.name}, [entry("package", number, types, 4.5)])
        found.append(corpus)
    for folder in sorted((GOLDEN / "reference").iterdir()):
        if not folder.is_dir():
            continue
        corpus = target / f"nequip-{folder.name}"
        corpus.mkdir(parents=True)
        items = []
        for package in sorted(folder.glob("*.nequip.zip")):
            import numpy as np

            network = package.name.partition(".")[0]
            name = {"basic": "package", "rich": "package-rich"}[network]
            store(package, corpus / f"{name}.nequip.zip")
            with np.load(folder / f"{network}.npz") as arrays:
                record = {
                    f"sole_model/{key}": torch.from_numpy(arrays[key]).contiguous()
                    for key in arrays
                }
            save_file(record, corpus / f"{name}.safetensors")
            items.append(entry(name, 2, ["Cu", "Au"], 4.0))
        write_list(corpus, {"nequip": folder.name}, items)
        found.append(corpus)
    return found + sorted(path.parent for path in GOLDEN.glob("checkpoints/*/corpus.json"))


def entry(name: str, number: int, types: list[str], r_max: float) -> dict[str, Any]:
    """Return the list entry of a golden package."""
    return {
        "name": name,
        "kind": "package",
        "file": f"{name}.nequip.zip",
        "record": f"{name}.safetensors",
        "dtype": "float64",
        "format": number,
        "type_names": types,
        "r_max": r_max,
        "models": ["sole_model"],
    }


def write_list(corpus: Path, versions: dict[str, str], items: list[dict[str, Any]]) -> None:
    """Write ``corpus.json`` of a golden."""
    content = {"writer": corpus.name, "versions": versions, "items": items, "absent": {}}
    (corpus / "corpus.json").write_text(json.dumps(content, indent=1))


def store(package: Path, target: Path) -> None:
    """Write the members of a compressed package uncompressed."""
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(target, "w") as sink:
        for member in source.infolist():
            sink.writestr(member.filename, source.read(member))


def fresh_corpora(only: list[str] | None = None) -> list[Path]:
    """Return the folders that writers have filled, all or those named."""
    found = sorted(path.parent for path in CORPORA.glob("*/corpus.json"))
    return [path for path in found if only is None or path.name in only]


def subset(environments: dict[str, Environment]) -> int:
    """Run what continuous integration runs; return the exit code."""
    chosen = [item for item in environments.values() if item.subset]
    writers = [item for item in chosen if "write" in item.roles]
    codes = [write(item) for item in writers]
    codes += [refused(item) for item in environments.values() if item.refused]
    corpora = fresh_corpora([item.name for item in writers]) + golden_corpora()
    codes += [read(item, corpora, compiled=False) for item in chosen if "read" in item.roles]
    return int(any(codes))


def main() -> int:
    """Run what is asked for and return the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("action", choices=("write", "read", "subset"))
    parser.add_argument("name", nargs="?")
    parser.add_argument("--no-compile", action="store_true", help="leave out AOTInductor")
    parser.add_argument("--discard", action="store_true", help="remove the environment at the end")
    options = parser.parse_args()
    environments = environments_of()
    if options.action == "subset":
        return subset(environments)
    if options.name not in environments:
        parser.error(f"name one of {', '.join(environments)}")
    environment = environments[options.name]
    try:
        if options.action == "write":
            return write(environment)
        compiled = not options.no_compile
        return read(environment, fresh_corpora() + golden_corpora(), compiled)
    finally:
        if options.discard:
            shutil.rmtree(WORK / "environments" / environment.name, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
