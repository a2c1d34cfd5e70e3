"""All commands, in the order in which the help has them. Each body calls the stage of its own name; nothing heavy is
imported before one runs."""

from __future__ import annotations

# isort: off
from spear_cli import data, training, rendering, scoring, looking  # noqa: F401
from spear_cli.boundary import app
# isort: on


def main() -> None:
    """The entry point of the `spear` command."""
    app(prog_name="spear")  # also where it runs as `python -m spear_cli`
