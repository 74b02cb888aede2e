"""``python -m gmkern``: the command line."""

from gmkern.cli import main

if __name__ == "__main__":
    main()
