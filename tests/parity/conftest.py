"""The reference implementation beside our layers, for comparison of numbers only.

Importing the reference writes global state (default dtype, seeds, jit flags); the fixtures keep
our side independent of it by passing every dtype explicitly.
"""

import warnings

import pytest


@pytest.fixture(scope="session")
def reference():
    """The reference's builder, after its own global initialisation."""
    nequip = pytest.importorskip("nequip", reason="the parity session installs nequip==0.19.1")
    if nequip.__version__ != "0.19.1":
        pytest.fail(f"parity is defined against nequip 0.19.1, found {nequip.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference's own deprecations are not ours to judge
        from nequip.model import NequIPGNNModel
        from nequip.utils.global_state import set_global_state

        set_global_state()
    return NequIPGNNModel
