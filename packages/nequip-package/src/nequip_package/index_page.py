"""The pages of a repository: every model with its card. No script, font or image is needed.

Whatever a package says is text of unknown origin: it is escaped, cut, and cannot leave its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.errors import NequIPError
from nequip_core.repository.names import ModelName
from nequip_core.terminal import visible
from nequip_package.console import size_text
from nequip_package.stated_facts import StatedFacts, facts_of

__all__ = ["FILES", "PAGES", "index_page", "model_page"]

Found = tuple[ModelName, Path]

FILES = "files/"
"""Where the packages are, seen from the page of all models."""
PAGES = "models/"
"""Where the pages of single models are, seen from there."""
_LONGEST = 2000  # characters of one text
_MOST_ROWS = 60
_FEWEST_LISTED = 4  # models in a table of contents
_HEADLINES = ("name", "description")
_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--dim:color-mix(in srgb,currentColor 65%,transparent)}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:0 auto;padding:2rem 1rem 4rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.2rem;margin:0 0 .5rem}
p{margin:.25rem 0}header p,.version,summary{color:var(--dim)}
code{font:.875em/1.5 ui-monospace,monospace;background:var(--soft);border-radius:.25rem;padding:.1em .3em}
section{border:1px solid var(--line);border-radius:.5rem;padding:1rem 1.25rem;margin:1.25rem 0;overflow:hidden}
article{contain:paint}article .name{font-weight:600}.text{white-space:pre-line}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.25rem 1rem;margin:.75rem 0}
dt{color:var(--dim);max-width:12rem}dd{margin:0;min-width:0;white-space:pre-line}
.text,dd{max-height:14rem;overflow:auto}nav a{display:inline-block;margin-right:1rem}
summary{cursor:pointer;margin-top:.5rem}article+article,details article{border-top:1px solid var(--line);margin-top:.75rem;padding-top:.75rem}
.bad{color:#c33;font-weight:600}
@media(max-width:36rem){dl{grid-template-columns:1fr;gap:0}dd{margin:0 0 .5rem}}
"""  # noqa: E501


def index_page(models: Iterable[Found]) -> str:
    """Return the page of all models: the newest version of each, the others folded away.

    Args:
        models: by name, the newest version first, each with its package.
    """
    grouped = groupby(models, key=lambda found: f"{found[0].group}/{found[0].model}")
    families = {family: list(versions) for family, versions in grouped}
    links = {family: f'<a href="{PAGES}{family}">{family}</a>' for family in families}
    contents = f"<nav>{' '.join(links.values())}</nav>\n" if len(links) >= _FEWEST_LISTED else ""
    sections = "\n".join(
        _section(links[family], versions, "") for family, versions in families.items()
    )
    return _page(
        "Models",
        "<p>The name of a model stands wherever the file of a model does, once "
        "<code>NEQUIP_REPOSITORY</code> names this server.</p>",
        f"{contents}{sections or '<p>There is no model here yet.</p>'}",
    )


def model_page(versions: list[Found]) -> str:
    """Return the page of one model.

    Args:
        versions: the newest first, each with its package; at least one.
    """
    name = versions[0][0]
    family = f"{name.group}/{name.model}"
    root = "../" * PAGES.count("/") + "../"
    back = f'<p><a href="{root}">All models</a></p>'
    return _page(family, back, _section("Versions", versions, root, unfolded=True))


def _page(title: str, head: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<title>{title}</title>\n<meta name="viewport" content="width=device-width">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<header><h1>{title}</h1>\n{head}</header>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _section(title: str, versions: list[Found], root: str, unfolded: bool = False) -> str:
    newest, *others = versions
    folded = "".join(_article(*found, root) for found in others)
    if others and not unfolded:
        count = f"{len(others)} other version{'s' * (len(others) > 1)}"
        listed = ", ".join(name.version for name, _ in others[:8]) + ", ..." * (len(others) > 8)
        folded = f"<details><summary>{count}: {listed}</summary>{folded}</details>\n"
    return f"<section>\n<h2>{title}</h2>\n{_article(*newest, root)}{folded}</section>"


def _article(name: ModelName, path: Path, root: str) -> str:
    # Names hold letters, digits, hyphens and dots only.
    start = f'<article id="{name}">\n<p class="version">version {name.version}</p>'
    try:
        facts = facts_of(path)
    except NequIPError:
        return f'{start}\n<p class="bad">The package is damaged.</p>\n</article>\n'
    file = f"{root}{FILES}{name.group}/{name.model}/{name.version}{PACKAGE_SUFFIX}"
    rows = [
        _row("use it as", f"<code>{name.reference}</code>"),
        *(_row(key, _text(value)) for key, value in _rows(facts)),
        _row("file", f'<a href="{file}">{path.name}</a>, {size_text(facts.size)}'),
        _row("identity", f"<code>{facts.identity}</code>"),
    ]
    heads = [facts.card.get(key) for key in _HEADLINES]
    head = "".join(
        f'<p class="{kind}">{_text(value)}</p>\n'
        for kind, value in zip(("name", "text"), heads, strict=True)
        if value
    )
    return f"{start}\n{head}<dl>\n{''.join(rows)}</dl>\n</article>\n"


def _rows(facts: StatedFacts) -> list[tuple[str, Any]]:
    """Return what is shown of the metadata, the signatures and the card."""
    stated = facts.metadata
    unit = (stated.get("units") or {}).get("length", "")
    cutoff = stated.get("r_max")
    found: list[tuple[str, Any]] = [
        ("types", " ".join(stated.get("type_names") or ())),
        ("cutoff", "" if cutoff is None else f"{cutoff:g} {unit}".strip()),
        ("precision", stated.get("model_dtype") or ""),
        ("parameters", stated.get("num_parameters")),
        *(("signed with", text) for text in facts.signatures),
    ]
    card = {key: value for key, value in facts.card.items() if key not in _HEADLINES}
    found += list(card.items())[:_MOST_ROWS]
    return [(key, value) for key, value in found if value not in (None, "", [], {})]


def _row(key: str, content: str) -> str:
    label = visible(key.replace("_", " "))
    return f"<dt><bdi>{escape(label[:80])}</bdi></dt><dd>{content}</dd>\n"


def _text(value: Any) -> str:
    """Return a value as text of the page; nothing of it is markup, or acts on what is around it."""
    text = _plain(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} ..."
    lines = (visible(line) for line in text.splitlines())
    return f"<bdi>{escape(chr(10).join(lines))}</bdi>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        separator = ", " if sum(len(str(item)) for item in value) < 100 else "\n"
        return separator.join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
