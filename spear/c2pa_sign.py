"""Signed provenance: a C2PA manifest inside the video, with c2pa-python (the extra `provenance`).

The manifest says `c2pa.created` with the digital source type compositeWithTrainedAlgorithmicMedia, and its signature
covers pictures, sound and metadata: a change of one byte of them is seen. Without a certificate of the user's own, a
key is made at first use. Its certificate vouches for no name, so readers call the signer unknown; it shows that all
videos come from one installation and are as they were. Nothing here asks the network: no remote manifests, no OCSP, no
time stamps.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from spear.errors import SpearError
from spear.signing_key import Identity
from spear.temporary import temporary_file
from spear.version import __version__

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
SYNTHETIC = {
    "algorithmicMedia",
    "compositeSynthetic",
    "compositeWithTrainedAlgorithmicMedia",
    "trainedAlgorithmicMedia",
}
"""Digital source types of IPTC's list, by their last part, that mean: not only recorded."""
INSTALL = 'pip install "spear-face[provenance]"'
_TYPES = {".mp4": "video/mp4", ".mov": "video/quicktime", ".m4v": "video/x-m4v"}
_SETTINGS = {
    "version": 1,
    "core": {"allowed_network_hosts": []},  # none at all, whatever asks
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},  # it is read back here
    "builder": {"thumbnail": {"enabled": False}},
    # uses of a certificate that may sign: e-mail, documents, C2PA's own; alone, the first one would be accepted
    "trust": {"trust_config": "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1\n"},
}
_ABOUT_THE_SIGNER = ("signingCredential.", "timeStamp.", "claimSignature.outsideValidity")
"""Failures of a signature that matches: who signed is unknown or out of date, the content is not in question."""
_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
"""The user type of the MP4 box that holds a manifest."""


class Manifest(NamedTuple):
    """What a file's manifest is: `absent`, `valid`, `tampered`, or `unread` (it is there, `detail` says why unread).

    signer: as the certificate names itself. trusted: whether someone known vouches for it. synthetic: whether it, or
    a manifest of what the file was made from, says so.
    """

    state: str
    detail: str = ""
    signer: str = ""
    trusted: bool = False
    synthetic: bool = False


def is_installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("c2pa") is not None


def can_hold(path: Path) -> bool:
    """Whether a manifest can be put into a file of this name: MP4 and MOV, not Matroska."""
    return path.suffix.lower() in _TYPES


@contextmanager
def signed(path: Path, identity: Identity, title: str) -> Iterator[Path]:
    """A signed copy of a finished video, in the same folder and already read back, for the caller to move.

    title: the name that the manifest gives it. What is not moved vanishes; `path` itself is never touched.
    Raises SpearError where it cannot be signed, or is not valid when read back.
    """
    if not can_hold(path):
        raise SpearError(f"{title} cannot hold a C2PA manifest; name the video .mp4 or .mov, or render without signing")
    c2pa = _library()
    with temporary_file(path.parent, path.suffix) as copy:
        with _told(c2pa, title), open(copy, "w+b") as target, open(path, "rb") as source:
            info = c2pa.C2paSignerInfo(identity.algorithm, identity.certificates, identity.key, None)
            with c2pa.Context.from_dict(_SETTINGS) as context, c2pa.Signer.from_info(info) as signer:
                kind = _TYPES[path.suffix.lower()]
                with c2pa.Builder(json.dumps(_manifest(title, kind)), context) as builder:
                    builder.sign(signer, kind, source, target)
        found = read_manifest(copy)
        if found.state != "valid" or not found.synthetic:
            reason = found.detail or f"the manifest is {found.state}"
            raise SpearError(f"cannot sign {title}: read back, {reason}; check that the key fits the certificate")
        yield copy


def read_manifest(path: Path) -> Manifest:
    """What manifest a file holds, of any program's. Changes nothing and asks nobody."""
    if not is_installed():
        if has_box(path):
            return Manifest("unread", f"c2pa-python is not installed; {INSTALL}")
        return Manifest("absent")
    c2pa = _library()
    try:
        with open(path, "rb") as file, c2pa.Context.from_dict(_SETTINGS) as context:
            try:
                with c2pa.Reader(_TYPES.get(path.suffix.lower()), file, context=context) as reader:
                    return _judged(json.loads(reader.json()))
            except c2pa.C2paError as error:
                return _refused(str(error), path)
    except OSError as error:
        raise SpearError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error


def has_box(path: Path) -> bool:
    """Whether an MP4 or MOV file has a box that holds a manifest, without c2pa-python."""
    with open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        begin = 0
        while begin + 8 <= length:
            file.seek(begin)
            head = file.read(32)
            size = int.from_bytes(head[:4], "big")
            start = 8
            if size == 1:
                size, start = int.from_bytes(head[8:16], "big"), 16
            if head[4:8] == b"uuid" and head[start : start + 16] == _BOX:
                return True
            if size < start:  # 0: to the end of the file; else no MP4
                return False
            begin += size
    return False


def _refused(error: str, path: Path) -> Manifest:
    """What it means that the library gives no manifest."""
    error = " ".join(error.split())
    if error.startswith("Remote"):
        return Manifest("unread", "it names a manifest on the network, which is not asked for")
    if has_box(path):
        return Manifest("tampered", f"it cannot be read ({error})")
    return Manifest("absent")


def _judged(store: dict[str, Any]) -> Manifest:
    """What a store of manifests, as c2pa-python gives it, says."""
    manifests = store.get("manifests") or {}
    results = (store.get("validation_results") or {}).get("activeManifest") or {}
    failures = [failure["code"] for failure in results.get("failure") or []]
    broken = [code for code in failures if not code.startswith(_ABOUT_THE_SIGNER)]
    matches = any(one["code"] == "claimSignature.validated" for one in results.get("success") or [])
    info = (manifests.get(store.get("active_manifest")) or {}).get("signature_info") or {}
    signer = ", ".join(part for part in (info.get("common_name"), info.get("issuer")) if part)
    synthetic = any(_is_synthetic(manifest) for manifest in manifests.values())
    if broken or not matches:
        return Manifest("tampered", ", ".join(broken) or "its signature does not match", signer, False, synthetic)
    doubts = ", ".join(failures)
    return Manifest("valid", doubts, signer, store.get("validation_state") == "Trusted", synthetic)


def _is_synthetic(manifest: dict[str, Any]) -> bool:
    actions = [
        action
        for assertion in manifest.get("assertions") or []
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in (assertion.get("data") or {}).get("actions") or []
    ]
    return any(str(action.get("digitalSourceType", "")).rsplit("/", 1)[-1] in SYNTHETIC for action in actions)


def _manifest(title: str, kind: str) -> dict[str, Any]:
    agent = {"name": "SPEAR", "version": __version__}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [created]}}
    return {"claim_generator_info": [agent], "title": title, "format": kind, "assertions": [actions]}


@contextmanager
def _told(c2pa: Any, title: str) -> Iterator[None]:
    try:
        yield
    except (c2pa.C2paError, OSError) as error:
        what = f"cannot sign {title}: {' '.join(str(error).split())}"
        raise SpearError(f"{what}; check certificate, key and free disk space, or render without signing") from error


def _library() -> Any:
    """The module c2pa. Raises SpearError where it is absent or cannot be loaded."""
    spec = importlib.util.find_spec("c2pa")
    if spec is None:
        raise SpearError(f"signing needs c2pa-python, which is not installed; {INSTALL}, or render without signing")
    for folder in spec.submodule_search_locations or []:
        for library in Path(folder, "libs").glob("*c2pa_c.[sd]*"):
            if library.suffix in (".so", ".dylib", ".dll"):
                # it would look for its binary in the current folder first, where anybody's file may lie
                os.environ.setdefault("C2PA_LIBRARY_NAME", str(library))
    try:
        c2pa = importlib.import_module("c2pa")
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SpearError(f"c2pa-python cannot be loaded ({reason}); install it again: {INSTALL}") from error
    if not hasattr(c2pa, "Context"):
        raise SpearError(f"the module c2pa is of another package, or too old; {INSTALL}")
    return c2pa
