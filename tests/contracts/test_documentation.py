"""Links between documents lead somewhere, and Python in them is Python with names that exist."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("packages/*/*.md")]
)
LAYERS = tuple(path.parent.name for path in ROOT.glob("packages/*/src/*/_version.py"))


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def test_documents_are_found() -> None:
    assert len(DOCUMENTS) > 20


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_relative_links_lead_to_files(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in link and not link.startswith("mailto:"):
            assert (document.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_python_examples_import_names_that_exist(document: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module.partition(".")[0] in LAYERS:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


SCRIPTS = [
    (document, block)
    for document in DOCUMENTS
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(), flags=re.DOTALL)
]


@pytest.mark.parametrize(
    ("document", "script"), SCRIPTS, ids=[f"{name(item[0])}-{i}" for i, item in enumerate(SCRIPTS)]
)
def test_scripts_are_valid_bash(document: Path, script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_there_are_scripts_for_a_queue() -> None:
    assert sum("#SBATCH" in script for _, script in SCRIPTS) >= 2


@pytest.mark.parametrize("record", sorted((ROOT / "docs" / "design").glob("*.md")), ids=name)
def test_decision_record_has_its_three_parts_and_is_listed(record: Path) -> None:
    text = record.read_text()
    number = int(record.name[:4])
    assert text.startswith(f"# {number}. ")
    assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequences"))
    assert f"design/{record.name}" in (ROOT / "docs" / "README.md").read_text()
