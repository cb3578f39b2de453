"""``python -m sktl``, the same as ``sktl``."""

from sktl._cli import main

if __name__ == "__main__":
    main()
