"""The template extension package is importable from its source."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "template" / "src"))
