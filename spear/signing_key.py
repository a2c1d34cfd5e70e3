"""The key that signs videos: the user's own certificate and key, or one that is made at first use.

The one that is made lies in `~/.config/spear/signing.pem` (or below `$XDG_CONFIG_HOME`): key and certificate in one
file, so that neither is ever without the other, readable by its owner alone. Delete it and the next use makes another;
videos that the old one signed stay valid, since each carries its certificate.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from spear.errors import SpearError
from spear.temporary import temporary_file

_YEARS = 10
_MARGIN = timedelta(days=1)
"""A certificate is valid from a day ago, for clocks that differ, and replaced a day before its end."""
_C2PA_CLAIM_SIGNING = "1.3.6.1.4.1.62558.2.1"
_OTHERS = 0o077


class Identity(NamedTuple):
    """Who signs: certificates from the signer's own upwards and the private key as PEM, and C2PA's name of the
    algorithm."""

    certificates: bytes
    key: bytes
    algorithm: str


def load_identity(certificate: Path | None = None, key: Path | None = None) -> Identity:
    """The user's own certificate (PEM, the whole chain) and key (PEM), or without them the key of this installation.

    Call it before the work: it makes the key at first use. Raises SpearError where one of the two is absent, cannot be
    read, is protected by a passphrase, does not fit the other, or may be read by others; and without the extra.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        from spear.c2pa_sign import INSTALL

        what = "signing needs c2pa-python and cryptography, which are not installed"
        raise SpearError(f"{what}; {INSTALL}, or render without signing") from error
    if certificate is None and key is None:
        return _own(user_config() / "signing.pem")
    if certificate is None or key is None:
        raise SpearError("--sign-cert and --sign-key belong together; give both, or neither for a key made here")
    return _fitting(_bytes_of(certificate), _bytes_of(key), certificate, key)


def user_config() -> Path:
    """Where this user's settings are: `~/.config/spear`, or below `$XDG_CONFIG_HOME`. They cannot be made again."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "spear"


def _own(path: Path) -> Identity:
    from cryptography import x509

    if path.exists():
        if path.stat().st_mode & _OTHERS:
            raise SpearError(f"{path} may be read by others; run `chmod 600 {path}`, or delete it for a new key")
        content = _bytes_of(path)
        identity = _fitting(content, content, path, path)
        if x509.load_pem_x509_certificate(content).not_valid_after_utc - _MARGIN > datetime.now(UTC):
            return identity
    key, certificate = _made()
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with temporary_file(path.parent) as temporary:  # 0600 from the first byte on
            with open(temporary, "wb") as file:
                file.write(key + certificate)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        what = f"cannot write {path}: {error.strerror or error}"
        raise SpearError(f"{what}; set XDG_CONFIG_HOME, or give --sign-cert and --sign-key") from error
    return Identity(certificate, key, "es256")


def _made() -> tuple[bytes, bytes]:
    """A new key on the curve P-256 and its certificate, as PEM; the certificate names neither user nor machine."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    public, now = key.public_key(), datetime.now(UTC)
    short = x509.SubjectKeyIdentifier.from_public_key(public)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "self-made key of a SPEAR installation"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"SPEAR key {short.digest.hex()[:8]}"),
        ]
    )
    # readers accept e-mail protection by default; the other one is what C2PA's specification now names
    uses = [ExtendedKeyUsageOID.EMAIL_PROTECTION, x509.ObjectIdentifier(_C2PA_CLAIM_SIGNING)]
    may = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder(name, name, public, x509.random_serial_number())
        .not_valid_before(now - _MARGIN)
        .not_valid_after(now + timedelta(days=round(365.25 * _YEARS)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **may), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(short, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(key), certificate.public_bytes(Encoding.PEM)


def _fitting(certificates: bytes, key: bytes, certificate_path: Path, key_path: Path) -> Identity:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    try:
        chain = x509.load_pem_x509_certificates(certificates)
        public = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SpearError(f"{certificate_path} holds no certificate in PEM; give the chain as PEM") from error
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError as error:
        what = f"{key_path} is protected by a passphrase"
        raise SpearError(f"{what}; decrypt it into a file of mode 0600: `openssl pkey -in {key_path}`") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SpearError(f"{key_path} holds no private key in PEM; give one (EC, RSA or Ed25519)") from error
    if private.public_key() != public:
        raise SpearError(f"{key_path} is not the key of the first certificate in {certificate_path}; give its key")
    algorithm = _algorithm(private)
    if algorithm is None:
        raise SpearError(f"{key_path} is of a kind that C2PA does not take; give an EC, RSA or Ed25519 key")
    return Identity(b"".join(one.public_bytes(Encoding.PEM) for one in chain), _pem(private), algorithm)


def _algorithm(key: Any) -> str | None:
    """C2PA's name for what a key signs with; None where there is none."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}.get(key.curve.name)
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else None


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"cannot read {path}: {error.strerror or error}"
        raise SpearError(f"{what}; check the path and its permissions") from error
