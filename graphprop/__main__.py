"""``python -m graphprop``: the command."""

from graphprop.cli import main

if __name__ == "__main__":
    main(prog_name="graphprop")
