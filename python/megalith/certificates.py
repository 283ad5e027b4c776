"""A cluster's certificates, in memory: how they are made, and what is in them. The files are :mod:`megalith.keys`'s.

All keys are ECDSA on P-256. A host's certificate has its name (that of the hosts file) as DNS name, and serves both to
dial and to listen. An authority that takes another's place is vouched for by the old one with a *crossed* certificate,
so that hosts that know only the old one take what the new one signs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from megalith.exceptions import KeysError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    raise KeysError("certificates need the package cryptography; install it with: pip install cryptography") from None

AUTHORITY_LIFE: Final = timedelta(days=3652)
HOST_LIFE: Final = timedelta(days=365)
CLOCK_SLACK: Final = timedelta(hours=1)
"""A certificate is good from so long before it was made, for hosts whose clocks are behind."""

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs a cluster's certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Identity:
    """A host's key, and its certificate with those between it and an anchor."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]


def check_name(name: str) -> None:
    """Raises KeysError if a certificate cannot be for a host of this name."""
    if len(name) > 63 or not _NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise KeysError(
            f"a host that has keys cannot be named {name!r}: letters, digits, '-', '_' and '.' as in DNS names,"
            " at most 63, and not only digits behind the last '.'"
        )


def new_authority(now: datetime) -> Authority:
    """A new one, with an anchor of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Megalith cluster {secrets.token_hex(4)}")])
    certificate = _authority(name, key, name, key, path_length=1, now=now, until=now + AUTHORITY_LIFE)
    return Authority(key, certificate)


def crossed(new: Authority, old: Authority, now: datetime) -> x509.Certificate:
    """The old authority's word for the new one, as long as its own certificate is good."""
    subject, issuer = new.certificate.subject, old.certificate.subject
    until = min(new.certificate.not_valid_after_utc, old.certificate.not_valid_after_utc)
    return _authority(subject, new.key, issuer, old.key, path_length=0, now=now, until=until)


def new_host(authority: Authority, name: str, now: datetime, between: Sequence[x509.Certificate] = ()) -> Identity:
    """A new key and certificate for the host ``name``."""
    check_name(name)
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + HOST_LIFE, authority.certificate.not_valid_after_utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _begun(subject, key, authority.certificate.subject, authority.key, now, until)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Identity(key, (certificate, *between))


def _authority(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    *,
    path_length: int,
    now: datetime,
    until: datetime,
) -> x509.Certificate:
    return (
        _begun(subject, key, issuer, signer, now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(signer, hashes.SHA256())
    )


def _begun(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def name_of(certificate: x509.Certificate) -> str:
    """The name of the host that it is for; raises KeysError if it is for none, or for several."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = found.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        names = []
    if len(names) != 1:
        raise KeysError("the certificate is not for one host")
    return names[0]


def issuer_of(certificate: x509.Certificate, anchors: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The anchor that has signed it."""
    for anchor in anchors:
        try:
            certificate.verify_directly_issued_by(anchor)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return anchor
    return None


def fits(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    """Whether it is that key's certificate."""
    public = certificate.public_key()
    return isinstance(public, ec.EllipticCurvePublicKey) and public == key.public_key()


def is_current(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether it is good at that time."""
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as text, not encrypted."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


def parse_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """A private key; raises KeysError if the text is none."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError) as error:
        raise KeysError(f"not a private key: {_short(error)}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeysError("not an ECDSA key")
    return key


def chain_pem(chain: Sequence[x509.Certificate]) -> str:
    """Certificates as text."""
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in chain)


def parse_chain(pem: str) -> tuple[x509.Certificate, ...]:
    """Certificates, at least one; raises KeysError if the text has none."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem.encode()))
    except ValueError as error:
        raise KeysError(f"not certificates: {_short(error)}") from None


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:100]


def utc_now() -> datetime:
    """Now, in whole seconds, as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)
