"""Keep the checkpoints of a release as goldens: `python tools/golden/checkpoint_write.py VERSION`.

They come from what `nox -s "archives_write(VERSION)"` wrote: a training from nothing, and, where
the release can, one that started from a package.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from nequip_model.checkpoint import VERSION_KEY

ROOT = Path(__file__).parents[2]
CORPORA = ROOT / ".nox" / "matrix" / "corpora"
GOLDEN = ROOT / "tests" / "golden" / "checkpoints"
KEPT = ("checkpoint", "checkpoint-fine-tuned")


def main() -> int:
    """Copy the items and their records, and write the list of them; return the exit code."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/golden/checkpoint_write.py VERSION")
    version = sys.argv[1]
    corpus, folder = CORPORA / version, GOLDEN / version
    if not (corpus / "corpus.json").exists():
        raise SystemExit(f'{corpus} is not there: run `nox -s "archives_write({version})"` first')
    content = json.loads((corpus / "corpus.json").read_text())
    items = [item for item in content["items"] if item["name"] in KEPT]
    folder.mkdir(parents=True)  # what is there is never replaced
    for item in items:
        for name in (item["file"], item["record"]):
            shutil.copyfile(corpus / name, folder / name)
        content_of = torch.load(corpus / item["file"], weights_only=True, map_location="cpu")
        item["checkpoint_version"] = content_of[VERSION_KEY]
    kept = content | {"writer": f"golden-checkpoint-{version}", "items": items, "absent": {}}
    (folder / "corpus.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(f"{folder.relative_to(ROOT)}: {', '.join(item['name'] for item in items)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
