"""Verify golden packages with the nequip-core that is installed, whichever version that is.

For the compatibility matrix: this script runs in environments that hold released wheels, so it uses
public names only, and works in a temporary folder so that no checkout can lend a module. Each
package is loaded with the code that it carries and has to reproduce its recorded outputs.

Usage: python -I tools/golden/verify.py FOLDER... [--expect DIST==VERSION ...] [--tolerance 1e-12]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

PACKAGE, FRAMES, SUMS = "model.nequip.zip", "frames.safetensors", "SHA256SUMS"


def find_version_problems(expected: list[str]) -> list[str]:
    """Return a line for each ``DIST==VERSION`` that is not what is installed."""
    problems = []
    for item in expected:
        name, _, version = item.partition("==")
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if not version or installed != version:
            problems.append(f"{name} is {installed}, expected {version or 'a version'}")
    return problems


def find_changed_files(folder: Path) -> list[str]:
    """Return a line for each file that differs from its recorded digest."""
    problems = []
    for line in (folder / SUMS).read_text().splitlines():
        digest, name = line.split(maxsplit=1)
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            problems.append(f"{folder / name}: changed since it was recorded")
    return problems


def ways(folder: Path) -> list[str]:
    """Return the ways to load a package here: a rebuild needs format 3 and the model layer."""
    from nequip_core.archive.reader import PackageReader

    described = PackageReader(folder / PACKAGE).format_version >= 3
    model_layer = importlib.util.find_spec("nequip_model") is not None
    return ["snapshot", "rebuild"] if described and model_layer else ["snapshot"]


def find_wrong_predictions(folder: Path, tolerance: float, load: str) -> list[str]:
    """Return a line for each recorded output that is not reproduced."""
    from safetensors.torch import load_file

    from nequip_core.archive.loading import load_package

    consent = load == "snapshot"
    model = load_package(folder / PACKAGE, load, trust_code=consent).models["sole_model"]
    recorded = load_file(folder / FRAMES)
    names = sorted({key.partition("/")[0] for key in recorded})
    problems = [] if names else [f"{folder / FRAMES}: no frames"]
    for name in names:
        parts = {kind: f"{name}/{kind}/" for kind in ("input", "output")}
        fields = {
            kind: {
                key.removeprefix(prefix): value
                for key, value in recorded.items()
                if key.startswith(prefix)
            }
            for kind, prefix in parts.items()
        }
        found = model(fields["input"])
        if not fields["output"]:
            problems.append(f"{folder / FRAMES}: no outputs of frame '{name}'")
        for key, expected in fields["output"].items():
            difference = (found[key].detach() - expected).abs().max().item()
            if found[key].shape != expected.shape or not difference <= tolerance:
                problems.append(
                    f"{folder}: {load}: {key} of frame '{name}' is off by {difference:.3g}"
                )
    return problems


def main() -> int:
    """Print one line a package and one a problem; return the exit code."""
    parser = argparse.ArgumentParser(description="Verify golden packages.")
    parser.add_argument("folders", nargs="+", type=Path, help="searched for model.nequip.zip")
    parser.add_argument("--expect", nargs="*", default=[], metavar="DIST==VERSION")
    parser.add_argument("--tolerance", type=float, default=1e-12)
    options = parser.parse_args()
    roots = [folder.resolve() for folder in options.folders]
    goldens = sorted({path.parent for root in roots for path in root.rglob(PACKAGE)})
    if not goldens:
        print(f"no {PACKAGE} below {', '.join(map(str, roots))}; nothing was proved")
        return 1
    problems = find_version_problems(options.expect)
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)
        for golden in goldens:
            found, tried = find_changed_files(golden), ways(golden)
            for load in tried:
                found += find_wrong_predictions(golden, options.tolerance, load)
            print(f"{golden.name}: {'FAILED' if found else 'reproduced'} by {' and '.join(tried)}")
            problems += found
        os.chdir(roots[0].anchor)
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
