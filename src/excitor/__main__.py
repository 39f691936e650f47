"""``python -m excitor`` is the command ``excitor``."""

from excitor.cli import main


main()
