"""Read archive folders with the installed layers in every way there is; report each cell.

Usage: python -I archives_read.py REPORT.json --name READER --expect DIST==VERSION ... \
           --known KNOWN.json [--compile=WRITER ...] FOLDER ...

Runs in environments with released layers: it imports public names only and works in a temporary
folder. KNOWN.json lists what must fail, and how: a failure that it names is a cell ``refused``, and
one of these that passes is a failure. Exits with 1 if any cell has failed.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import importlib.util
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from corpus import check_versions, compare, read_corpus, read_record

TOLERANCES = {"float64": 1e-12, "float32": 5e-5}
CHECKS = {
    "package": ("metadata", "snapshot", "rebuild", "repackage"),
    "checkpoint": ("load", "package"),
}
# Packages that are compiled: it takes half a minute each.
COMPILED = "package"


def installed(module: str) -> bool:
    """Return whether a module can be imported here."""
    return importlib.util.find_spec(module) is not None


class Reader:
    """Runs the checks of one item; each returns what it found, or raises.

    Args:
        new: whether the layers are 0.2 or later.
        folder: of the item.
        item: its entry in the folder's list.
    """

    def __init__(self, new: bool, folder: Path, item: dict[str, Any]) -> None:
        self.new = new
        self.item = item
        self.file = folder / item["file"]
        self.tolerance = TOLERANCES[item["dtype"]]
        self.record = read_record(folder / item["record"])

    def load_package(self, path: Path, way: str = "snapshot") -> Any:
        """Return the models of a package."""
        if not self.new:
            from nequip_core.archive.snapshot import load_package as load_old

            return load_old(path)
        from nequip_core.archive.loading import load_package

        return load_package(path, load=way, trust_code=way == "snapshot")

    def load_checkpoint(self) -> Any:
        """Return the models of a checkpoint."""
        from nequip_core.saved_model import load_saved_model

        return load_saved_model(self.file, **({"trust_code": True} if self.new else {}))

    def metadata(self) -> str:
        """Check what a package states of itself; nothing in it runs."""
        from nequip_core.archive.reader import PackageReader

        found = PackageReader(self.file).metadata
        types = list(found["atom_types"].values())
        # 0.1 shows what the file says; packages of nequip do not say this.
        r_max = float(found["r_max"] if self.new else found.get("r_max", self.item["r_max"]))
        if types != self.item["type_names"] or r_max != self.item["r_max"]:
            raise AssertionError(f"types are {types}, r_max is {r_max}, expected {self.item}")
        return f"format {found['package_version_id']}"

    def snapshot(self) -> str:
        """Compare what the code in the package predicts."""
        return compare(self.load_package(self.file).models, self.record, self.tolerance)

    def rebuild(self) -> str:
        """Compare what the installed code predicts with the package's weights."""
        models = self.load_package(self.file, "rebuild").models
        return compare(models, self.record, self.tolerance)

    def repackage(self) -> str:
        """Package the package again and compare what the new one predicts."""
        return self._packaged(self.load_package(self.file))

    def load(self) -> str:
        """Compare what a checkpoint's model predicts."""
        return compare(self.load_checkpoint().models, self.record, self.tolerance)

    def package(self) -> str:
        """Package a checkpoint and compare what the package predicts."""
        return self._packaged(self.load_checkpoint())

    def _packaged(self, saved: Any) -> str:
        from nequip_package.build import build_package

        path = build_package(saved, Path("again.nequip.zip"))
        return compare(self.load_package(path).models, self.record, self.tolerance)

    def compile(self) -> str:
        """Compile a package by AOTInductor, run it in ASE, and compare with the package."""
        from ase.build import bulk

        from nequip_compile.command import main
        from nequip_integrations.ase import NequIPCalculator

        consent = {"trust_code": True} if self.new else {}
        eager = NequIPCalculator.from_package(self.file, device="cpu", **consent)
        target = Path("compiled.nequip.pt2")
        trust = ["--trust-code"] if self.new else []
        options = ["--mode", "aotinductor", "--device", "cpu", "--target", "ase", *trust]
        if main([str(self.file), str(target), *options]):
            raise RuntimeError("nequip-compile failed")
        atoms = bulk("Cu", cubic=True, a=3.85).repeat((2, 1, 1))
        atoms.set_chemical_symbols(["Cu", "Au", "Cu", "Au"] * 2)
        atoms.rattle(0.1, seed=3)
        forces = []
        for calculator in (eager, NequIPCalculator.from_compiled_model(target, device="cpu")):
            atoms.calc = calculator
            forces.append(atoms.get_forces())
        off = abs(forces[0] - forces[1]).max()
        size = abs(forces[0]).max()
        if not off <= 1e-10 * max(size, 1.0) or size < 1e-4:
            raise AssertionError(f"compiled forces are off by {off:.2g} of {size:.2g} eV/Å")
        return f"forces off by {off:.1g} eV/Å"


def known_failure(known: list[dict[str, Any]], cell: dict[str, Any]) -> dict[str, Any] | None:
    """Return the entry that says how a cell must fail, if one does."""
    for entry in known:
        patterns = {key: entry.get(key, "*") for key in ("reader", "writer", "item")}
        if cell["check"] in entry["checks"] and all(
            fnmatch.fnmatchcase(cell[key], pattern) for key, pattern in patterns.items()
        ):
            return entry
    return None


def judge(run: Callable[[], str], expected: dict[str, Any] | None) -> tuple[str, str]:
    """Return ``pass``, ``refused`` or ``fail``, and what was found."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run()
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        if expected is None:
            return "fail", said
        if type(error).__name__ != expected["error"] or expected["message"] not in str(error):
            named = f"{expected['error']} with '{expected['message']}'"
            return "fail", f"must fail by {named}, failed by {said}"
        return "refused", f"{expected['error']}: {expected['message']}"
    if expected is not None:
        return "fail", f"must fail ({expected['reason']}), passed: {found}"
    return "pass", found


def absent_reason(check: str, item: dict[str, Any], new: bool) -> str:
    """Return why a check cannot be asked of these layers; empty if it can."""
    needs = {
        "repackage": "nequip_package",
        "package": "nequip_package",
        "compile": "nequip_compile",
    }
    if check in needs and not installed(needs[check]):
        return f"{needs[check].replace('_', '-')} is not in this environment"
    if check == "rebuild" and not new:
        return "nequip-core 0.1 has no rebuild"
    if check == "repackage" and not new:
        return "nequip-package 0.1 packages checkpoints only"
    if check == "rebuild" and item["format"] < 3:
        return f"format {item['format']} holds no architecture"
    return ""


def read_folder(
    folder: Path, reader: str, new: bool, known: list[dict[str, Any]], compiled: bool
) -> list[dict[str, Any]]:
    """Return the cells of one archive folder."""
    content = read_corpus(folder)
    cells = []
    for item in content["items"]:
        run = Reader(new, folder, item)
        checks = CHECKS[item["kind"]]
        checks += ("compile",) if compiled and item["name"] == COMPILED else ()
        for check in checks:
            cell = {"reader": reader, "writer": content["writer"], "item": item["name"]}
            cell |= {"check": check}
            start = time.monotonic()
            reason = absent_reason(check, item, new)
            if reason:
                cell |= {"outcome": "absent", "detail": reason}
            else:
                outcome, detail = judge(getattr(run, check), known_failure(known, cell))
                cell |= {"outcome": outcome, "detail": detail.splitlines()[0]}
            cell["seconds"] = round(time.monotonic() - start, 1)
            cells.append(cell)
            print(f"{cell['outcome']:8} {content['writer']}: {item['name']}, {check}", flush=True)
            if cell["outcome"] == "fail":
                print(f"         {detail}", flush=True)
    for name, reason in content["absent"].items():
        cell = {"reader": reader, "writer": content["writer"], "item": name, "check": "write"}
        cells.append(cell | {"outcome": "absent", "detail": reason, "seconds": 0.0})
    return cells


def main() -> int:
    """Write the report and return the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--name", required=True, help="of the environment")
    parser.add_argument("--expect", nargs="+", required=True, metavar="DIST==VERSION")
    parser.add_argument("--known", type=Path, required=True, help="what must fail")
    parser.add_argument(
        "--compile", metavar="WRITER", action="append", default=[], help="compile its package"
    )
    options = parser.parse_args()
    versions = check_versions(options.expect)
    new = tuple(map(int, versions["nequip-core"].split(".")[:2])) >= (0, 2)
    known = json.loads(options.known.read_text())
    report, folders = options.report.resolve(), [folder.resolve() for folder in options.folders]
    cells, writers = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ["XDG_DATA_HOME"] = f"{scratch}/data"
        for folder in folders:
            content = read_corpus(folder)
            writers[content["writer"]] = content["versions"]
            compiled = content["writer"] in options.compile
            cells += read_folder(folder, options.name, new, known, compiled)
        os.chdir(report.anchor)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {"reader": options.name, "versions": versions, "writers": writers, "date": today}
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(result | {"cells": cells}, indent=1, sort_keys=True) + "\n")
    counts = {name: [cell["outcome"] for cell in cells].count(name) for name in OUTCOMES}
    print(f"{options.name}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return int(counts["fail"] > 0 or counts["pass"] + counts["refused"] == 0)


OUTCOMES = ("pass", "refused", "absent", "fail")

if __name__ == "__main__":
    sys.exit(main())
