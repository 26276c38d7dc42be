"""Entry point of `python examples/demo`, also `make demo`.

The interpreter puts this folder first on `sys.path`; the repository root replaces it, so that the files here are the
package `examples.demo` however they are started.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.demo.story import main  # noqa: E402 - needs the path set above

if __name__ == "__main__":
    sys.exit(main())
