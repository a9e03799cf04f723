"""Findings of the doctor, and their two forms: aligned text and JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nequip_core.terminal import visible

__all__ = ["BROKEN", "STATES", "Finding", "Section", "as_json", "as_text", "examined", "shortened"]

OK, INFO, ABSENT, WARNING, SKIPPED, BROKEN = "ok", "info", "absent", "warning", "skipped", "BROKEN"
STATES = {
    OK: "found, and tried where it can be tried",
    INFO: "a fact, neither good nor bad",
    ABSENT: "optional and not installed",
    WARNING: "works, or is not needed, but something is unusual",
    SKIPPED: "not tried",
    BROKEN: "installed and does not work, or required and missing; the exit code is 1",
}
_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        name: what was looked at.
        state: one of `STATES`.
        text: what was found.
        advice: what to do about it; empty if nothing.
    """

    name: str
    state: str
    text: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Section:
    """Findings on one topic."""

    title: str
    findings: tuple[Finding, ...]


def examined(title: str, look: Callable[[], Sequence[Finding]]) -> Section:
    """Return a section; where looking itself fails, that is its finding.

    Args:
        title: of the section.
        look: returns the findings.
    """
    try:
        found = tuple(look())
    except Exception as error:
        found = (
            Finding(title, BROKEN, f"could not be examined ({type(error).__name__}: {error})"),
        )
    return Section(title, tuple(_cleaned(finding) for finding in found))


def shortened(text: str) -> str:
    """Return `text` with the user's home folder written as ``~``."""
    try:
        home = str(Path.home())
    except RuntimeError:  # a user without a home, as in some containers
        return text
    if len(home) < 2:
        return text
    ends = ("/", "\\", "'", '"', ":", ",", ";", ")", " ")
    for end in ends:
        text = text.replace(f"{home}{end}", f"~{end}")
    return f"{text.removesuffix(home)}~" if text.endswith(home) else text


def as_text(sections: Sequence[Section], verdict: str) -> str:
    """Return the report for people: one line a finding, aligned over all sections."""
    findings = [finding for section in sections for finding in section.findings]
    name_width = min(34, max((len(finding.name) for finding in findings), default=0))
    state_width = max(len(state) for state in STATES)
    margin = " " * (2 + state_width + 2 + name_width + 2)
    lines = []
    for section in sections:
        lines.append(section.title)
        for finding in section.findings:
            head = f"  {finding.state:<{state_width}}  {finding.name:<{name_width}}  "
            texts = [finding.text, f"-> {finding.advice}" if finding.advice else ""]
            body = [line for text in texts if text for line in _wrapped(text, margin)] or [""]
            if len(finding.name) > name_width:
                body.insert(0, "")
            lines.append(f"{head}{body[0]}".rstrip())
            lines += [f"{margin}{line}" for line in body[1:]]
        lines.append("")
    return "\n".join([*lines, verdict])


def as_json(sections: Sequence[Section], verdict: str, exit_code: int) -> str:
    """Return the report for programs."""
    content: dict[str, Any] = {
        "report_format": 1,
        "exit_code": exit_code,
        "verdict": verdict,
        "sections": [asdict(section) for section in sections],
    }
    return json.dumps(content, indent=1)


def _wrapped(text: str, margin: str) -> list[str]:
    if text.startswith("-> pip "):
        return [text]  # to be copied in one piece
    # Words are kept whole: paths and commands are copied from the report.
    return textwrap.wrap(
        text, max(30, _WIDTH - len(margin)), break_long_words=False, break_on_hyphens=False
    )


def _printable(text: str) -> str:
    """Return `text` on one line, without the home folder and without what a terminal obeys."""
    return visible(shortened(" ".join(text.split())))


def _cleaned(finding: Finding) -> Finding:
    return replace(
        finding,
        name=_printable(finding.name),
        text=_printable(finding.text),
        advice=_printable(finding.advice),
    )
