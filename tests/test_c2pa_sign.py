"""Promises of spear.c2pa_sign and spear.signing_key: what is signed is whole, is valid, and shows any change."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from spear import c2pa_sign, signing_key
from spear.c2pa_sign import INSTALL, Manifest, can_hold, has_box, is_installed, read_manifest, signed
from spear.errors import SpearError
from spear.signing_key import Identity, load_identity
from spear.video import VideoWriter

ALGORITHMS = {"p256": "es256", "p384": "es384", "p521": "es512", "rsa": "ps256", "ed25519": "ed25519"}
with_c2pa = pytest.mark.skipif(not is_installed(), reason=f"c2pa-python is not installed: {INSTALL}")


@pytest.fixture(autouse=True)
def _own_config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Six frames of 64x48."""
    path = tmp_path / "videos" / "out.mp4"
    path.parent.mkdir()
    write_video(path)
    return path


def write_video(path: Path) -> None:
    with VideoWriter(path, 64, 48, comment="Synthetic face: made with SPEAR 0.1.0") as writer:
        for i in range(6):
            writer.write(np.full((48, 64, 3), 40 * i, np.uint8))


def sign(path: Path, identity: Identity | None = None) -> Path:
    with signed(path, identity or load_identity(), path.name) as copy:
        os.replace(copy, path)
    return path


def boxes(data: bytes) -> dict[bytes, tuple[int, int]]:
    """Begin and end of the outermost boxes of an MP4 file."""
    found, at = {}, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found[data[at + 4 : at + 8]] = at, at + size
        at += size
    return found


@with_c2pa
def test_a_signed_video_says_how_it_was_made_and_by_whom(video: Path) -> None:
    assert read_manifest(video) == Manifest("absent")
    assert not has_box(video)
    once = sign(video).stat().st_size
    found = read_manifest(sign(video))
    assert abs(video.stat().st_size - once) < 100  # the second manifest takes the place of the first
    assert (found.state, found.synthetic, found.trusted) == ("valid", True, False)
    assert found.signer.startswith("SPEAR key ")
    assert found.signer.endswith(", self-made key of a SPEAR installation")
    assert found.detail == "signingCredential.untrusted"
    assert has_box(video)


@with_c2pa
def test_a_signed_video_plays_and_keeps_its_comment(video: Path) -> None:
    sign(video)
    with av.open(str(video)) as container:
        assert container.metadata["comment"] == "Synthetic face: made with SPEAR 0.1.0"
        assert sum(1 for _ in container.decode(video=0)) == 6


@with_c2pa
def test_quicktime_can_be_signed_and_matroska_cannot(tmp_path: Path) -> None:
    write_video(tmp_path / "out.mov")
    assert read_manifest(sign(tmp_path / "out.mov")).state == "valid"
    write_video(tmp_path / "out.mkv")
    assert not can_hold(tmp_path / "out.mkv")
    assert read_manifest(tmp_path / "out.mkv") == Manifest("absent")
    with pytest.raises(SpearError) as caught:
        sign(tmp_path / "out.mkv")
    advice = "name the video .mp4 or .mov, or render without signing"
    assert str(caught.value) == f"out.mkv cannot hold a C2PA manifest; {advice}"


@with_c2pa
def test_a_change_of_one_byte_is_seen(video: Path) -> None:
    data = sign(video).read_bytes()
    for name, (begin, end) in boxes(data).items():
        if name != b"ftyp":  # C2PA leaves the brands out of its hash
            changed = bytearray(data)
            changed[(begin + end) // 2] ^= 1
            video.write_bytes(changed)
            assert read_manifest(video).state == "tampered", name
    for changed in (data[: len(data) - 10], data[:100], data + b"x"):
        video.write_bytes(changed)
        assert read_manifest(video).state == "tampered"


@with_c2pa
def test_a_copy_that_is_not_moved_vanishes_and_the_video_stays(video: Path) -> None:
    before = video.read_bytes()
    with signed(video, load_identity(), "out.mp4") as copy:
        assert copy.parent == video.parent
        assert copy.suffix == ".mp4"
    with pytest.raises(RuntimeError, match="mine"), signed(video, load_identity(), "out.mp4"):
        raise RuntimeError("mine")
    assert video.read_bytes() == before
    assert [path.name for path in video.parent.iterdir()] == ["out.mp4"]


@with_c2pa
def test_a_failure_leaves_the_video_whole_and_nothing_else(video: Path) -> None:
    before = video.read_bytes()
    right, other = load_identity(), made_by("p256")
    for wrong in (right._replace(key=other.key), right._replace(certificates=b"junk"), made_by("p256", b"server")):
        with pytest.raises(SpearError, match=r"^cannot sign out\.mp4: .*; ?check .*") as caught:
            sign(video, wrong)
        assert "\n" not in str(caught.value)
    video.write_bytes(b"no video")
    with pytest.raises(SpearError, match=r"^cannot sign out\.mp4"):
        sign(video)
    video.write_bytes(before)
    assert [path.name for path in video.parent.iterdir()] == ["out.mp4"]


@with_c2pa
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_certificate_of_the_users_own_signs(kind: str, video: Path, tmp_path: Path) -> None:
    identity = made_by(kind)
    (tmp_path / "cert.pem").write_bytes(identity.certificates)
    (tmp_path / "key.pem").write_bytes(identity.key)
    loaded = load_identity(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert loaded.algorithm == ALGORITHMS[kind]
    assert read_manifest(sign(video, loaded)).signer == "A. Person, Studio"


@with_c2pa
def test_the_key_is_made_once_and_for_its_owner_alone() -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "spear"
    first = load_identity()
    assert [path.name for path in folder.iterdir()] == ["signing.pem"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "signing.pem").stat().st_mode & 0o777 == 0o600
    assert load_identity() == first
    assert first.algorithm == "es256"
    (folder / "signing.pem").unlink()
    assert load_identity() != first


@with_c2pa
def test_a_key_near_its_end_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_identity()
    monkeypatch.setattr(signing_key, "_MARGIN", timedelta(days=3660))  # it is valid for ten years
    assert load_identity() != first


@with_c2pa
def test_a_key_that_others_may_read_is_refused() -> None:
    load_identity()
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "spear" / "signing.pem"
    path.chmod(0o644)
    with pytest.raises(SpearError) as caught:
        load_identity()
    advice = f"run `chmod 600 {path}`, or delete it for a new key"
    assert str(caught.value) == f"{path} may be read by others; {advice}"


@with_c2pa
def test_keys_that_cannot_be_used_get_one_line(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    one, other = made_by("p256"), made_by("p256")
    secret = pem.load_pem_private_key(one.key, None).private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"word")
    )
    files = {"cert": one.certificates, "key": one.key, "other": other.key, "secret": secret, "junk": b"junk"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    cases = {
        ("cert", "other"): "is not the key of the first certificate in",
        ("cert", "secret"): "is protected by a passphrase; decrypt it into a file of mode 0600",
        ("cert", "junk"): "holds no private key in PEM; give one",
        ("junk", "key"): "holds no certificate in PEM; give the chain as PEM",
        ("cert", "gone"): "No such file or directory; check the path and its permissions",
        ("cert", None): "--sign-cert and --sign-key belong together; give both",
    }
    for (certificate, key), complaint in cases.items():
        with pytest.raises(SpearError, match=complaint):
            load_identity(tmp_path / certificate, None if key is None else tmp_path / key)


@with_c2pa
def test_nothing_is_fetched_that_a_file_names(video: Path, tmp_path: Path) -> None:
    import c2pa

    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        identity, remote = load_identity(), tmp_path / "remote.mp4"
        builder = c2pa.Builder(json.dumps(c2pa_sign._manifest("a", "video/mp4")))
        builder.set_no_embed()
        builder.set_remote_url(f"http://127.0.0.1:{server.server_port}/manifest")
        info = c2pa.C2paSignerInfo(identity.algorithm, identity.certificates, identity.key, None)
        with open(video, "rb") as source, open(remote, "w+b") as target:
            builder.sign(c2pa.Signer.from_info(info), "video/mp4", source, target)
        found = read_manifest(remote)
        assert asked == []
        with pytest.raises(c2pa.C2paError):  # the library by itself does ask, so the server would have heard it
            c2pa.Reader(str(remote))
        assert asked == ["/manifest"]
        server.shutdown()
    assert found == Manifest("unread", "it names a manifest on the network, which is not asked for")


def test_without_the_extra_there_is_one_line(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "c2pa" else find(name))
    identity = Identity(b"", b"", "es256")
    with pytest.raises(SpearError) as caught, signed(video, identity, "out.mp4"):
        pass
    what = 'signing needs c2pa-python, which is not installed; pip install "spear-face[provenance]"'
    assert str(caught.value) == f"{what}, or render without signing"
    assert read_manifest(video) == Manifest("absent")
    box = bytes.fromhex("00000020") + b"uuid" + c2pa_sign._BOX + bytes(8)
    video.write_bytes(video.read_bytes() + box)
    assert read_manifest(video) == Manifest("unread", f"c2pa-python is not installed; {INSTALL}")


def test_a_box_is_found_behind_others_of_every_kind_of_size(tmp_path: Path) -> None:
    path, box = tmp_path / "a.mp4", b"\0\0\0\x20uuid" + c2pa_sign._BOX + bytes(8)
    large = b"\0\0\0\1mdat" + (24).to_bytes(8, "big") + bytes(8)
    for content, there in (
        (b"\0\0\0\x08free" + box, True),
        (large + box, True),
        (b"\0\0\0\1uuid" + (40).to_bytes(8, "big") + c2pa_sign._BOX + bytes(8), True),
        (b"\0\0\0\0mdat" + box, False),  # that box goes to the end of the file
        (b"\0\0\0\x20uuid" + bytes(24), False),
        (b"\0\0\0\x07free" + box, False),
        (b"", False),
        (b"RIFF", False),
    ):
        path.write_bytes(content)
        assert has_box(path) is there, content


def made_by(kind: str, use: bytes = b"documents") -> Identity:
    """An identity with a certificate of its own, for signing documents or (`server`) for something else."""
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.x509.oid import NameOID

    key: Any
    if kind in ("rsa", "ed25519"):
        key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key({"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}[kind]())
    public, now = key.public_key(), datetime.now(UTC)
    parts = ((NameOID.ORGANIZATION_NAME, "Studio"), (NameOID.COMMON_NAME, "A. Person"))
    name = x509.Name([x509.NameAttribute(what, text) for what, text in parts])
    oid = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36" if use == b"documents" else "1.3.6.1.5.5.7.3.1")
    flags = [True, *[False] * 8]
    certificate = (
        x509.CertificateBuilder(name, name, public, 1, now - timedelta(days=1), now + timedelta(days=9))
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(x509.KeyUsage(*flags), critical=True)
        .add_extension(x509.ExtendedKeyUsage([oid]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, None if kind == "ed25519" else hashes.SHA256())
    )
    private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    return Identity(certificate.public_bytes(pem.Encoding.PEM), private, ALGORITHMS[kind])
