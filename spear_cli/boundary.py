"""The `spear` command itself: the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from spear.errors import SpearError, Terminated
from spear.version import __version__
from spear_cli.console import fail

STARTED = time.monotonic()


class _Group(TyperGroup):
    """The one place where an error becomes a line and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run and exit; a wrong option gets one line as well, where typer would draw a box."""
        try:
            sys.exit(super().main(*args, **{**options, "standalone_mode": False}))
        except TyperException as error:
            command = getattr(getattr(error, "ctx", None), "command_path", "spear")
            if message := error.format_message().rstrip("."):  # empty where `spear` alone has shown the help
                fail(SpearError(f"{message[0].lower()}{message[1:]}; see `{command} --help`"))
            sys.exit(error.exit_code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; whatever it raises becomes a line and an exit code."""
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be UTF-8
        gc.set_threshold(10_000)  # torch's import makes 200,000 objects that stay: looking for garbage took .1 s
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads make busy cores 10 times slower
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # they are for developers: `python -W default -m spear_cli ...`
        signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except SpearError as error:
            fail(error)
            if getattr(error, "code", 0) > 128:  # a signal: all is saved, and taking torch apart takes half a second
                sys.stdout.flush()
                os._exit(error.code)  # type: ignore[attr-defined]
            raise typer.Exit(getattr(error, "code", 1)) from None
        except KeyboardInterrupt:
            fail(SpearError("interrupted; run the same command again to go on"))
            raise typer.Exit(130) from None
        except Terminated:
            fail(SpearError("terminated; run the same command again to go on"))
            raise typer.Exit(143) from None
        except BrokenPipeError:  # whoever reads stdout, `head` say, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(141) from None
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            fail(SpearError(f"{error.strerror or error}{where}; check the path, its permissions and the free space"))
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except Exception as error:
            if os.environ.get("SPEAR_DEBUG"):
                raise
            fail(_unexpected(error))
            raise typer.Exit(1) from None


def _unexpected(error: Exception) -> SpearError:
    """What no stage has foreseen, in one line as well."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return SpearError("the memory is full; use smaller pictures, shorter speech or fewer --jobs")
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}"[:200]
    return SpearError(
        f"{what} ({Path(place.filename).name}, line {place.lineno}); this is a mistake in spear: "
        "set SPEAR_DEBUG=1 to see where it comes from, and report it"
    )


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


app = typer.Typer(
    cls=_Group,
    name="spear",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start here: `spear render --audio speech.wav --ref face.mp4 -o out.mp4`",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"spear {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Speech plus a reference video in, a talking face out.

    Each command reads and writes plain files in the current folder; a second run does only what is missing.
    """
