"""Write docs/compatibility.md and its picture from what readers have measured.

Usage: python tools/matrix_report.py [--check]

Results of `nox -s archives_read`, below .nox/matrix/results, replace those kept in
tests/compat/measured; the report is made of the kept ones alone. What has not been measured is
shown as not run. ``--check`` writes nothing and fails if the report is not that of the kept ones.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import WORK, Environment, read_environments
from released_wheels import ROOT

RESULTS, MEASURED = WORK / "results", ROOT / "tests" / "compat" / "measured"
DOCUMENT, PICTURE = ROOT / "docs" / "compatibility.md", ROOT / "docs" / "compatibility.svg"
NOT_RUN, GOLDEN = "not run", "golden"
# Best news last: a cell is as good as its worst check.
COLOURS = {"fail": "#c0392b", "refused": "#e2b13c", "pass": "#3b8f5c", NOT_RUN: "#d5d8dc"}
USES = {
    "snapshot": "run it with the code it carries",
    "rebuild": "run it with the installed model code",
    "repackage": "package it again",
    "compile": "compile it (AOTInductor)",
    "load": "load its checkpoint",
    "package": "package its checkpoint",
}
HEAD = """# Compatibility

Written by `nox -s matrix_report` from measurements; do not edit. Each entry was measured by
`nox -s archives_write archives_read` on the date under Environments; what was not is `not run`.

"""


@dataclass(frozen=True)
class Matrix:
    """What was measured.

    Attributes:
        environments: by name, as environments.toml has them.
        results: kept results by reader.
        cells: all cells.
    """

    environments: dict[str, Environment]
    results: dict[str, dict[str, Any]]
    cells: list[dict[str, Any]]

    def outcome(self, reader: str, writer: str, **fields: str) -> str:
        """Return the worst outcome of a writer's files with a reader, or `NOT_RUN`."""
        found = {
            cell["outcome"]
            for cell in self.cells
            if cell["reader"] == reader
            and cell["writer"] == writer
            and all(cell[key] == value for key, value in fields.items())
        }
        for name in ("fail", "refused", "pass", "absent"):
            if name in found:
                return name
        return NOT_RUN

    def counts(self, reader: str, writer: str) -> dict[str, int]:
        """Return how many cells had each outcome."""
        outcomes = [
            cell["outcome"]
            for cell in self.cells
            if cell["reader"] == reader and cell["writer"] == writer
        ]
        return {name: outcomes.count(name) for name in ("pass", "refused", "absent", "fail")}


def keep_results() -> None:
    """Copy fresh results to where they are committed, without what only a machine knows."""
    MEASURED.mkdir(parents=True, exist_ok=True)
    for file in sorted(RESULTS.glob("*.json")):
        content = json.loads(file.read_text())
        for cell in content.get("cells", []):
            del cell["seconds"]
            cell["detail"] = cell["detail"].replace(f"{ROOT}/", "")
        kept = json.dumps(content, sort_keys=True).replace('{"check"', '\n {"check"')
        (MEASURED / file.name).write_text(f"{kept}\n")


def read_matrix() -> Matrix:
    """Return the kept results.

    Raises:
        SystemExit: there are none.
    """
    environments = read_environments()
    results = {}
    for file in sorted(MEASURED.glob("*.json")):
        content = json.loads(file.read_text())
        if content["reader"] in environments:
            results[content["reader"]] = content
    if not results:
        raise SystemExit(f"no results in {MEASURED}: run archives_write and archives_read first")
    cells = [cell for content in results.values() for cell in content.get("cells", [])]
    return Matrix(environments, results, cells)


def layers_text(environment: Environment) -> str:
    """Return the versions of an environment's layers in words."""
    versions = set(environment.layers.values())
    if len(versions) > 1:
        return ", ".join(f"{name} {version}" for name, version in environment.layers.items())
    (version,) = versions
    return version if version != "tree" else "tree (0.2)"


def quick_table(matrix: Matrix) -> str:
    """Return the table for who holds a package and wonders whether it will work."""
    readers = [item for item in matrix.environments.values() if "read" in item.roles]
    readers = [item for item in readers if not item.refused]
    writers = {
        "0.1": ["0.1.0", "0.1.0-torch-2.14"],
        "0.2": [name for name in matrix.environments if name.startswith(("0.2", "tree"))],
        "`nequip` 0.10 to 0.19": sorted(
            {cell["writer"] for cell in matrix.cells if cell["writer"].startswith("nequip-")}
        ),
    }
    lines = [
        "Will a package made by ... work here?",
        "",
        f"| read by | torch | Python | {' | '.join(f'made by {name}' for name in writers)} |",
        f"|---|---|---|{'---|' * len(writers)}",
    ]
    words = {"pass": "**yes**", "refused": "no, says so", "fail": "**FAILS**", NOT_RUN: NOT_RUN}
    for item in readers:
        entries = []
        for names in writers.values():
            outcomes = {matrix.outcome(item.name, name, check="snapshot") for name in names}
            # The extension's package asks for a library of the extension.
            plain = {
                matrix.outcome(item.name, name, check="snapshot", item="package") for name in names
            }
            worst = next((o for o in ("fail", "refused", "pass") if o in plain), NOT_RUN)
            noted = "" if worst == "fail" or "fail" not in outcomes else " (**some FAIL**)"
            entries.append(words[worst] + noted)
        what = "simulation only" if len(item.packages) == 2 else "all layers"
        cells = " | ".join(entries)
        lines.append(f"| {layers_text(item)}, {what} | {item.torch} | {item.python} | {cells} |")
    lines += [
        "",
        "Yes: the package runs with the code that it carries and reproduces the recorded float64 "
        "predictions to 1e-12. Simulation only: nequip-core and nequip-integrations; packages of "
        "`nequip` run there once `opt_einsum_fx` is installed.",
    ]
    return "\n".join(lines)


def uses_table(matrix: Matrix) -> str:
    """Return what works with files of 0.1 and 0.2, by reader."""
    pairs = [("0.1.0", "0.1"), ("0.2.0", "0.2")]
    columns = [(check, writer, short) for check in USES for writer, short in pairs]
    rows = ["| " + " | ".join(["with a file of", *(s for _, _, s in columns)]) + " |"]
    rows.append("|---" * (len(columns) + 1) + "|")
    marks = {"pass": "yes", "refused": "refused", "fail": "**FAILS**", "absent": "-"}
    for reader in matrix.results:
        if matrix.environments[reader].refused:
            continue
        entries = [
            marks.get(matrix.outcome(reader, writer, check=check), NOT_RUN)
            for check, writer, _ in columns
        ]
        rows.append(f"| {reader} | {' | '.join(entries)} |")
    heads = ", ".join(f"{2 * i + 1}-{2 * i + 2} {text}" for i, text in enumerate(USES.values()))
    return (
        "## What can be done with it\n\n"
        f"Columns: {heads}. The worst of all files counts. "
        "`-`: cannot be asked there, reason below.\n\n" + "\n".join(rows)
    )


def cells_table(matrix: Matrix) -> str:
    """Return the counts of every reader and writer."""
    writers = list(dict.fromkeys(cell["writer"] for cell in matrix.cells))
    writers += [
        name
        for name, item in matrix.environments.items()
        if "write" in item.roles and not item.refused and name not in writers
    ]
    readers = [
        name
        for name, item in matrix.environments.items()
        if "read" in item.roles and not item.refused
    ]
    rows = [f"| written by | {' | '.join(readers)} |", f"|---{'|---' * len(readers)}|"]
    for writer in writers:
        entries = []
        for reader in readers:
            counts = matrix.counts(reader, writer)
            failed = f", **{counts['fail']} FAIL**" if counts["fail"] else ""
            text = f"{counts['pass']} / {counts['refused']} / {counts['absent']}{failed}"
            entries.append(text if any(counts.values()) else NOT_RUN)
        rows.append(f"| {writer} | {' | '.join(entries)} |")
    return (
        "## Every cell\n\n![Map of the cells](compatibility.svg)\n\n"
        "Checks that passed / were refused with the named error / cannot be asked there.\n\n"
        + "\n".join(rows)
    )


def reasons(matrix: Matrix) -> str:
    """Return why cells are refused or absent."""
    found: dict[str, set[str]] = {"refused": set(), "absent": set()}
    for cell in matrix.cells:
        if cell["outcome"] in found:
            what = "writing" if cell["check"] == "write" else f"`{cell['check']}`"
            who = cell["writer"] if cell["check"] == "write" else cell["reader"]
            found[cell["outcome"]].add(f"| {who} | {what} | {cell['detail']} |")
    text = ""
    for name, title in (("refused", "Refused, as it must be"), ("absent", "Cannot be asked")):
        rows = "\n".join(sorted(found[name]))
        text += f"## {title}\n\n| environment | check | |\n|---|---|---|\n{rows}\n\n"
    return text.rstrip()


def environments_table(matrix: Matrix) -> str:
    """Return the environments with dates and reasons."""
    rows = ["| environment | layers | torch | e3nn | Python | measured | why |", "|---" * 7 + "|"]
    for name, item in matrix.environments.items():
        date = matrix.results.get(name, {}).get("date", NOT_RUN)
        if item.refused:
            date = f"{date}, refused by pip: `{item.refused}`" if date != NOT_RUN else date
        rows.append(
            f"| {name} | {layers_text(item)} | {item.torch} | {item.e3nn or '-'} | {item.python} "
            f"| {date} | {item.reason} |"
        )
    return "## Environments\n\n" + "\n".join(rows)


def picture(matrix: Matrix) -> str:
    """Return the heat map as SVG: rows are writers, columns readers."""
    readers = [name for name, item in matrix.environments.items() if "read" in item.roles]
    readers = [name for name in readers if not matrix.environments[name].refused]
    writers = list(dict.fromkeys(cell["writer"] for cell in matrix.cells))
    left, top, size = 190, 130, 24
    width, height = left + size * len(readers) + 90, top + size * (len(writers) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for column, reader in enumerate(readers):
        x = left + size * column
        parts.append(f'<text transform="translate({x + 8},{top - 6}) rotate(-50)">{reader}</text>')
        for row, writer in enumerate(writers):
            counts = matrix.counts(reader, writer)
            asked = counts["pass"] + counts["refused"] + counts["fail"]
            name = "fail" if counts["fail"] else "pass" if counts["pass"] == asked else "refused"
            colour = COLOURS[name if asked else NOT_RUN]
            y = top + size * row
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size - 2}" height="{size - 2}" fill="{colour}">'
                f"<title>{writer} read by {reader}: {counts}</title></rect>"
            )
    for row, writer in enumerate(writers):
        y = top + size * row + 15
        parts.append(f'<text x="{left - 6}" y="{y}" text-anchor="end">{writer}</text>')
    legend = {"pass": "all pass", "refused": "some refused", "fail": "fails", NOT_RUN: NOT_RUN}
    y = top + size * len(writers) + 16
    for index, (name, text) in enumerate(legend.items()):
        x = 10 + 105 * index
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 16}" y="{y + 11}">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def document(matrix: Matrix) -> str:
    """Return the text of the report."""
    parts = (quick_table, uses_table, cells_table, environments_table, reasons)
    return HEAD + "\n\n".join(part(matrix) for part in parts) + "\n"


def main() -> int:
    """Write the report, or check it, and return the exit code."""
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        raise SystemExit("usage: matrix_report.py [--check]")
    if not check:
        keep_results()
    matrix = read_matrix()
    made = {DOCUMENT: document(matrix), PICTURE: picture(matrix)}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not the report of {MEASURED.relative_to(ROOT)}")
        return int(bool(stale))
    for path in stale:
        Path(path).write_text(made[path])
    failed = [cell for cell in matrix.cells if cell["outcome"] == "fail"]
    print(f"{len(matrix.cells)} cells of {len(matrix.results)} readers, {len(failed)} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
