"""The files of a host's keys, and what is done with them.

| file | what | who has it |
|---|---|---|
| ``ca.pem`` | the cluster's anchors, the newest first | every host |
| ``host.pem``, ``host.key`` | this host's certificate (and those between it and an anchor) and key | every host |
| ``ca.key`` | the key that makes hosts | the host where the cluster was made |
| ``cross.pem`` | the old authority's word for the new one, until it is forgotten | the same |

Files are replaced one at a time, each whole; an agent reads them anew when they have changed. None is replaced without
having been told to, and private ones that others can read are not used.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from megalith.exceptions import KeysError

if TYPE_CHECKING:
    from cryptography import x509

    from megalith.certificates import Authority, Identity

ANCHORS: Final = "ca.pem"
CERTIFICATE: Final = "host.pem"
KEY: Final = "host.key"
AUTHORITY_KEY: Final = "ca.key"
CROSS: Final = "cross.pem"

FILE_BYTES_MAX: Final = 1 << 20
_HEAD: Final = "megalith-token-1."


def default_directory() -> Path:
    """Where a user's keys are: ``/etc/megalith`` of root, ``~/.config/megalith`` of others."""
    if os.geteuid() == 0:
        return Path("/etc/megalith")
    configured = os.environ.get("XDG_CONFIG_HOME")
    if configured and os.path.isabs(configured):
        return Path(configured) / "megalith"
    return Path.home() / ".config" / "megalith"


def present(directory: Path) -> bool:
    """Whether a host's keys are there; raises KeysError if that cannot be seen."""
    return all(_exists(directory / name) for name in (ANCHORS, CERTIFICATE, KEY))


def create(directory: Path, name: str) -> None:
    """Makes a cluster, of which this is the first host, called ``name``."""
    from megalith import certificates

    certificates.check_name(name)
    for file in (AUTHORITY_KEY, ANCHORS, CERTIFICATE, KEY):
        if _exists(directory / file):
            raise KeysError(
                f"{directory / file} is there already; a new certificate is made with --renew, a new CA with --rotate"
            )
    now = certificates.utc_now()
    authority = certificates.new_authority(now)
    _make_directory(directory)
    _write(directory / AUTHORITY_KEY, certificates.key_pem(authority.key), secret=True)
    _write(directory / ANCHORS, certificates.chain_pem([authority.certificate]))
    _write_identity(directory, certificates.new_host(authority, name, now))


def token(directory: Path, name: str) -> str:
    """A line with which the host ``name`` joins: its new key and certificate, and the anchors. A secret."""
    from megalith import certificates

    authority, anchors = _authority(directory)
    identity = certificates.new_host(authority, name, certificates.utc_now(), _cross(directory))
    content = {
        "name": name,
        "key": certificates.key_pem(identity.key),
        "chain": certificates.chain_pem(identity.chain),
        "anchors": certificates.chain_pem(anchors),
    }
    return _HEAD + base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def join(directory: Path, text: str, *, force: bool = False) -> str:
    """Installs what :func:`token` has made; the name that this host has now. ``force`` replaces keys that are there."""
    from megalith import certificates

    name, identity, anchors = _parse_token(text)
    if not force:
        for file in (ANCHORS, CERTIFICATE, KEY):
            if _exists(directory / file):
                raise KeysError(f"{directory / file} is there already; to replace it, add --force")
    if _exists(directory / AUTHORITY_KEY):
        raise KeysError(f"{directory / AUTHORITY_KEY}: this host makes the keys of a cluster and joins none")
    _make_directory(directory)
    _write(directory / ANCHORS, certificates.chain_pem(anchors))
    _write_identity(directory, identity)
    return name


def renew(directory: Path) -> str:
    """A new certificate and key for this host, where the authority's key is; this host's name."""
    from megalith import certificates

    authority, _ = _authority(directory)
    name = certificates.name_of(_chain(directory)[0])
    _write_identity(directory, certificates.new_host(authority, name, certificates.utc_now(), _cross(directory)))
    return name


def rotate(directory: Path) -> None:
    """A new authority beside the old one; both are trusted until :func:`forget_old`."""
    from megalith import certificates

    old, anchors = _authority(directory)
    if _exists(directory / CROSS):
        raise KeysError(f"{directory / CROSS}: the last change of the CA has not ended; end it with --forget-old")
    name = certificates.name_of(_chain(directory)[0])
    now = certificates.utc_now()
    new = certificates.new_authority(now)
    cross = certificates.crossed(new, old, now)
    # Whatever is written last, what is there fits together: more is trusted before anything relies on it.
    _write(directory / ANCHORS, certificates.chain_pem([new.certificate, *anchors]))
    _write(directory / CROSS, certificates.chain_pem([cross]))
    _write(directory / AUTHORITY_KEY, certificates.key_pem(new.key), secret=True)
    _write_identity(directory, certificates.new_host(new, name, now, [cross]))


def forget_old(directory: Path) -> int:
    """Trusts no anchor any more but the one that has signed this host's certificate; how many are forgotten."""
    from megalith import certificates

    own, *_ = _chain(directory)
    anchors = _anchors(directory)
    kept = certificates.issuer_of(own, anchors)
    if kept is None:
        raise KeysError(f"{directory / CERTIFICATE}: not signed by an anchor of {ANCHORS}")
    if _exists(directory / AUTHORITY_KEY) and _authority(directory)[0].certificate != kept:
        raise KeysError(f"{directory / CERTIFICATE}: signed by the old CA still; first: megalith init --renew")
    _write(directory / CERTIFICATE, certificates.chain_pem([own]))
    _write(directory / ANCHORS, certificates.chain_pem([kept]))
    (directory / CROSS).unlink(missing_ok=True)
    return len(anchors) - 1


@dataclass(frozen=True, slots=True)
class Status:
    """What a host's keys are good for, and until when."""

    name: str
    host_until: datetime
    authority_until: datetime
    anchors: int
    makes_hosts: bool
    """Whether the authority's key is here."""


def status(directory: Path) -> Status:
    """What the files say; raises KeysError if they cannot be used."""
    from megalith import certificates

    own, *_ = _chain(directory)
    anchors = _anchors(directory)
    key = certificates.parse_key(_read(directory / KEY, secret=True))
    issuer = certificates.issuer_of(own, anchors)
    if issuer is None:
        raise KeysError(f"{directory / CERTIFICATE}: not signed by an anchor of {ANCHORS}")
    if not certificates.fits(key, own):
        raise KeysError(f"{directory / KEY}: it does not fit {CERTIFICATE}")
    return Status(
        name=certificates.name_of(own),
        host_until=own.not_valid_after_utc,
        authority_until=issuer.not_valid_after_utc,
        anchors=len(anchors),
        makes_hosts=_exists(directory / AUTHORITY_KEY),
    )


def _parse_token(text: str) -> tuple[str, Identity, tuple[x509.Certificate, ...]]:
    from megalith import certificates

    text = text.strip()
    if not text.startswith(_HEAD) or len(text) > FILE_BYTES_MAX:
        raise KeysError("this is no token; make one where the cluster was made, with: megalith token NAME")
    try:
        content: Any = json.loads(base64.b64decode(text.removeprefix(_HEAD), altchars=b"-_", validate=True))
        name, key_text, chain_text, anchors_text = (content[field] for field in ("name", "key", "chain", "anchors"))
        if not all(isinstance(part, str) for part in (name, key_text, chain_text, anchors_text)):
            raise TypeError
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        raise KeysError("the token is incomplete or mutilated; copy it whole") from None
    certificates.check_name(name)
    key, chain = certificates.parse_key(key_text), certificates.parse_chain(chain_text)
    anchors = certificates.parse_chain(anchors_text)
    if not certificates.fits(key, chain[0]) or certificates.issuer_of(chain[0], anchors) is None:
        raise KeysError("the token contradicts itself: key, certificate and anchors do not fit together")
    if certificates.name_of(chain[0]) != name:
        raise KeysError("the token contradicts itself: the certificate is for another host")
    if not certificates.is_current(chain[0], certificates.utc_now()):
        raise KeysError("the token's certificate is not good now: it is too old, or this host's clock is wrong")
    return name, certificates.Identity(key, chain), anchors


def _authority(directory: Path) -> tuple[Authority, tuple[x509.Certificate, ...]]:
    """Who signs here, and all anchors."""
    from megalith import certificates

    path = directory / AUTHORITY_KEY
    if not _exists(path):
        raise KeysError(
            f"{path} is not here: certificates are made on the host where the cluster was made, with"
            " 'megalith token NAME', and installed here with 'megalith init --join FILE --force'"
        )
    key = certificates.parse_key(_read(path, secret=True))
    anchors = _anchors(directory)
    for anchor in anchors:
        if certificates.fits(key, anchor):
            return certificates.Authority(key, anchor), anchors
    raise KeysError(f"{path}: it is the key of no anchor of {ANCHORS}")


def _anchors(directory: Path) -> tuple[x509.Certificate, ...]:
    return _certificates(directory / ANCHORS)


def _chain(directory: Path) -> tuple[x509.Certificate, ...]:
    return _certificates(directory / CERTIFICATE)


def _cross(directory: Path) -> tuple[x509.Certificate, ...]:
    return _certificates(directory / CROSS) if _exists(directory / CROSS) else ()


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    from megalith import certificates

    try:
        return certificates.parse_chain(_read(path))
    except KeysError as error:
        raise KeysError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None
    return True


def _read(path: Path, *, secret: bool = False) -> str:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None
    if secret and stat.S_IMODE(found.st_mode) & 0o077:
        raise KeysError(f"{path}: others may read it; if nobody has, make it private: chmod 600 {path}")
    if secret and found.st_uid not in {0, os.geteuid()}:
        raise KeysError(f"{path}: belongs to another user (uid {found.st_uid})")
    if len(content) > FILE_BYTES_MAX:
        raise KeysError(f"{path}: larger than 1 MiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise KeysError(f"{path}: not text") from None


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeysError(f"{directory}: {error.strerror}") from None


def _write_identity(directory: Path, identity: Identity) -> None:
    from megalith import certificates

    _write(directory / KEY, certificates.key_pem(identity.key), secret=True)
    _write(directory / CERTIFICATE, certificates.chain_pem(identity.chain))


def _write(path: Path, content: str, *, secret: bool = False) -> None:
    """Puts a whole file in the place of another, on disk when this returns."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o600 if secret else 0o644)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None
