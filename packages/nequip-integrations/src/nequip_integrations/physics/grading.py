"""All lines of a report, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ase import Atoms

from nequip_core.errors import NequIPError
from nequip_integrations.physics import (
    conservation,
    derivatives,
    extensivity,
    smoothness,
    symmetry,
)
from nequip_integrations.physics.lines import Line
from nequip_integrations.physics.subject import Subject, rattled

__all__ = ["grade"]

_MOST_SPECIES = 3  # whose dimers are looked at

Check = Callable[[], Line | list[Line] | None]


def grade(
    subject: Subject,
    atoms: Atoms,
    steps: int = 500,
    report: Callable[[int, int, str], None] | None = None,
) -> Iterator[Line]:
    """Yield the lines of a report, each as soon as it is known.

    Args:
        subject: what is graded.
        atoms: a structure; its atoms are moved a little at random first, so that forces are not
            zero by symmetry.
        steps: steps of dynamics at constant energy.
        report: called before each check with its number, how many there are, and its name.
    """
    moved = rattled(atoms)
    present = list(dict.fromkeys(atoms.get_chemical_symbols()))[:_MOST_SPECIES]
    checks: list[tuple[str, Check]] = [
        ("forces", lambda: derivatives.force_line(subject, moved)),
        ("stress", lambda: derivatives.stress_line(subject, moved)),
        ("Jacobian", lambda: derivatives.jacobian_line(subject, moved)),
        ("rotation", lambda: symmetry.rotation_line(subject, moved)),
        ("inversion", lambda: symmetry.inversion_line(subject, moved)),
        ("translation", lambda: symmetry.translation_line(subject, moved)),
        ("permutation", lambda: symmetry.permutation_line(subject, moved)),
        ("net force", lambda: symmetry.net_force_line(subject, moved)),
        ("dimers", lambda: smoothness.dimer_lines(subject, present)),
        ("supercell", lambda: extensivity.supercell_line(subject, moved)),
        ("separated copies", lambda: extensivity.copies_line(subject, moved)),
        ("drift", lambda: conservation.drift_line(subject, atoms, steps)),
    ]
    for number, (name, check) in enumerate(checks):
        if report is not None:
            report(number, len(checks), name)
        try:
            found = check()
        except NequIPError as error:
            # A model that fails does not pass; the other lines are still of use.
            found = Line(name, "The model gives an answer.", math.nan, 0.0, "", str(error))
        yield from found if isinstance(found, list) else [found] if found is not None else []
