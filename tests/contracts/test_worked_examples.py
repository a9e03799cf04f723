"""Examples in documents that check themselves are run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SELF_CHECKING = (
    "docs/data/README.md",
    "docs/data/fields.md",
    "docs/model/README.md",
    "docs/model/extensions.md",
    "docs/model/mathematics.md",
)


@pytest.mark.parametrize("document", SELF_CHECKING)
def test_the_assertions_of_the_example_hold(document: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)
    assert any("assert " in block for block in blocks)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, document, "exec"), names)
