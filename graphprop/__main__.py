"""The entry point: ``graphprop`` and ``python -m graphprop``.

Importing the command takes a moment. Until then an interrupt ends the process at once.
"""

from graphprop.signals import ending_at_once


def main() -> None:
    """Run the command."""
    with ending_at_once():
        from graphprop.cli import main as command
    command(prog_name="graphprop")


if __name__ == "__main__":
    main()
