"""Who vouches for a package that came under a name: its identity before, and accepted keys."""

from __future__ import annotations

import logging
from collections.abc import Collection

from nequip_core.archive.reader import PackageReader
from nequip_core.archive.signatures import check_signatures
from nequip_core.errors import MissingDependencyError, TrustError
from nequip_core.repository.keys import accepted_keys
from nequip_core.repository.names import ModelName

__all__ = ["require_known_identity", "require_vouched"]

_LOG = logging.getLogger(__name__)


def require_known_identity(name: ModelName, found: str, known: str | None) -> None:
    """Check that a name stands for what it stood for before, if it did for anything.

    Raises:
        TrustError: it is another package.
    """
    if known is not None and found != known:
        raise TrustError(
            f"'{name}' is another package than before, and is not used\n"
            f"  identity before: {known}\n"
            f"  identity now:    {found}\n"
            "  Ask who publishes it. To take the new one: nequip-package cache forget "
            f"{name.reference}"
        )


def require_vouched(
    package: PackageReader, name: ModelName, earlier: Collection[str]
) -> tuple[str, ...]:
    """Return the keys that signed a package, after checking that they are good enough.

    Where another version of the model was signed with a key that the user accepts, this one has to
    be signed with an accepted key as well.

    Args:
        package: what came under the name.
        name: the name.
        earlier: keys that signed versions of the model that are known already.

    Raises:
        TrustError: a signature is not valid, or that of an accepted key is missing.
        MissingDependencyError: a signature has to be checked, and `cryptography` is not installed.
    """
    accepted = accepted_keys()
    needed = sorted(set(earlier) & set(accepted))
    try:
        checks = check_signatures(package)
    except MissingDependencyError:
        if needed:
            raise
        _LOG.warning("the signatures of '%s' are not checked: cryptography is missing", name)
        return ()
    for check in checks:
        if not check.is_valid:
            raise TrustError(
                f"'{name}' has a signature by the key {check.public_key[:80]!r} that is not valid, "
                "and is not used: ask who publishes it"
            )
    signers = tuple(check.public_key for check in checks)
    if needed and not set(signers) & set(accepted):
        found = f"by {', '.join(signers)}" if signers else "by nobody"
        raise TrustError(
            f"'{name}' is signed {found}, and is not used: another version of the model was "
            f"signed with a key that you accepted, {', '.join(needed)}\n"
            "  Ask who publishes it. To accept another key: nequip-package trust KEY"
        )
    for key in signers:
        if key not in accepted:
            _LOG.warning(
                "'%s' is signed with the key %s, which you have not accepted; if you know whose it "
                "is: nequip-package trust %s",
                name,
                key,
                key,
            )
    return signers
