"""How a render is marked as synthetic: which marks it gets, checked before the work, and put on when it is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spear import c2pa_sign, watermark
from spear.errors import SpearError
from spear.provenance import COMMENT, Record, source, sources
from spear.signing_key import Identity, load_identity
from spear.video import Frame


@dataclass(frozen=True)
class Marking:
    """What a video says about itself. provenance: False for a video without any mark, which only the sidecar tells;
    watermark: an invisible mark in every frame; identity: whose key signs a C2PA manifest, None for none; command: the
    command line, for the sidecar."""

    provenance: bool = True
    watermark: bool = False
    identity: Identity | None = None
    command: str = ""

    @property
    def comment(self) -> str:
        """What goes into the metadata."""
        return COMMENT if self.provenance else ""

    def mark(self, frame: Frame) -> Frame:
        """The frame (H, W, 3) uint8 as it is written."""
        return watermark.embed(frame) if self.watermark else frame

    def finish(self, made: Path, out: Path, audio: Path, ref: Path, weights: Iterable[Path]) -> Record:
        """Sign a finished video `made` that will be called `out`, and say what it is made from.

        Raises SpearError where it cannot be signed; then `made` is as it was.
        """
        if self.identity is not None:
            with c2pa_sign.signed(made, self.identity, out.name) as copy:
                os.replace(copy, made)
        bits = watermark.as_text(watermark.payload()) if self.watermark else None
        return Record(
            source(made, out.name), source(audio), source(ref), sources(weights), self.command, self.provenance,
            self.identity is not None, bits,
        )  # fmt: skip


PLAIN = Marking()
"""The comment and the sidecar alone."""


def choose_marking(
    out: Path, provenance: bool, invisible: bool, certificate: Path | None, key: Path | None, command: str
) -> Marking:
    """The marks of a render to `out`: signed where c2pa-python is installed and the file can hold a manifest.

    Raises SpearError for what contradicts itself, and for a key or certificate that cannot be used.
    """
    asked = certificate is not None or key is not None
    if not provenance and (invisible or asked):
        raise SpearError("--no-provenance leaves out every mark; leave out --watermark, --sign-cert and --sign-key")
    able = c2pa_sign.is_installed() and c2pa_sign.can_hold(out)
    identity = load_identity(certificate, key) if provenance and (asked or able) else None
    return Marking(provenance, invisible, identity, command)
