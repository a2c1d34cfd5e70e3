"""The commands that look and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spear.errors import SpearError
from spear_cli.boundary import app
from spear_cli.console import progress_bar, say


@app.command(epilog="Example: `spear status clips`")
def status(
    clips: Annotated[Path, typer.Argument(help="Folder of the clips.")] = Path("clips"),
    json_out: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Tell what is done of a folder of clips, what is missing, what failed and why, and how long the rest will take.

    Also while others work on it. Counts files by their names; whether they still fit is what each command looks at.
    """
    from spear.stages.status import status as stage

    found = stage(clips)
    say(found.to_json() if json_out else found.to_text())


@app.command(epilog="Example: `spear verify out.mp4`")
def verify(video: Annotated[Path, typer.Argument(help="Any video.")]) -> None:
    """Tell whether a video is marked as synthetic: its comment, sidecar, C2PA manifest and invisible mark.

    Exit code 0: marked, 4: unmarked, 5: changed since it was marked. Nothing is asked on the network.
    """
    from spear.stages.verify import verify as stage

    with progress_bar("verify") as progress:
        found = stage(video, progress)
    mark = found.watermark
    say(f"{video}: {found.status}")
    say(f"comment: {found.comment or 'none'}")
    say(f"sidecar: {found.sidecar}")
    say(f"C2PA manifest: {found.manifest.state}" + (f" ({found.manifest.detail})" if found.manifest.detail else ""))
    say("invisible mark: " + ("not looked for" if mark is None else "found" if mark.found else "none"))
    for note in found.notes:
        say(f"note: {note}")
    raise typer.Exit({"marked": 0, "unmarked": 4, "tampered": 5}[found.status])


@app.command(epilog="Example: `spear check clips`")
def check(folder: Annotated[Path, typer.Argument(help="A folder of clips, models or renders, or one file.")]) -> None:
    """Find files that are no longer what was written, by the checksums that they hold.

    Exit code 0: none, 1: some, each named with what to run again.
    """
    from spear.stages.check import check as stage

    with progress_bar("check") as progress:
        found = stage(folder, progress)
    for _, reason in found.damaged:
        say(f"damaged: {reason}")
    if found.unknown:
        kinds = ", ".join(f"{count} {suffix or 'nameless'}" for suffix, count in sorted(found.unknown.items()))
        say(f"note: without a checksum, so not checked: {kinds}")
    if found.damaged:
        total = found.whole + len(found.damaged)
        raise SpearError(f"{len(found.damaged)} of {total} files in {folder} are damaged; do as said above for each")
    say(f"{found.whole} files are what was written")
