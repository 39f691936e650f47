"""Entry point of the ``excitor`` command.

It stands outside the package so that ``excitor --help`` answers at once: ``excitor/__init__.py`` sees that this module
is loaded and leaves the import of torch and PEFT, and with it the registration, to the command that runs.
"""


def main() -> None:
    """Run the command line."""
    from excitor.cli import main as run

    run()
