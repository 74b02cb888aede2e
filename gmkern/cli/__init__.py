"""The command line: ``gmkern``, or ``python -m gmkern``. Needs the extra "cli": ``pip install 'gmkern[cli]'``.

Exit codes: 0 done; 1 it could not be done (one line on standard error says why) or Ctrl-C; 2 the arguments are wrong.
"""

from __future__ import annotations

import sys

# The names that the command line imports, and the packages that have them.
_NEEDS = {
    "click": "click",
    "rich": "rich",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
}


def main() -> None:
    """Runs the command line and exits."""
    try:
        from gmkern.cli.app import app

        app(prog_name="gmkern")
    except ModuleNotFoundError as error:
        package = _NEEDS.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        print(
            f"gmkern: this command needs the package {package}, which is not installed. "
            "The extra \"cli\" brings it: pip install 'gmkern[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
