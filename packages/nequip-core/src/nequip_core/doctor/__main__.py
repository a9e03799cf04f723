"""``python -m nequip_core.doctor``: the command where its script is not on the path."""

import sys

from nequip_core.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
