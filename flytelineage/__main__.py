"""``python -m flytelineage``: the same as the console script ``flytelineage``."""

from __future__ import annotations

import sys

from flytelineage.app import main

if __name__ == "__main__":
    sys.exit(main())
