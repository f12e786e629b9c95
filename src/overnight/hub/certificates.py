"""The relay's certificates: an authority of its own, a certificate for its address, and how a stranger comes to trust them.

A join line carries 16 bytes of a hash over the authority. Who joins takes the authority out of the certificate that the relay shows (it is carried
there in an extension), holds it against the hash, and from then on trusts what that authority has signed and nothing else.
Must not know of the relay's folder.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from overnight.errors import UsageError
from overnight.hub import proxy

PIN = 16  # bytes
_CARRIED = x509.ObjectIdentifier("2.25.1739205467")  # 2.25 is for identifiers that nobody registers (ITU-T X.667)
_DAY = datetime.timedelta(days=1)
_AUTHORITY_DAYS, _SERVER_DAYS, _RENEW_DAYS = 3650, 397, 30


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (PEM; the server's is followed by its authority's) and its private key (PEM)."""

    certificate: bytes
    key: bytes


def authority(now: float) -> Pair:
    """A new authority, for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "overnight relay")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = (
        _begun(name, name, key, now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(made.public_bytes(serialization.Encoding.PEM), _private(key))


def server(signer: Pair, host: str, now: float) -> Pair:
    """A certificate for one address (a name or an IP number) and for this machine itself, for 13 months."""
    above = x509.load_pem_x509_certificate(signer.certificate)
    above_key = serialization.load_pem_private_key(signer.key, None)
    if not isinstance(above_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is of another kind")
    key = ec.generate_private_key(ec.SECP256R1())
    names = list(dict.fromkeys([host, "localhost", "127.0.0.1", "::1"]))
    made = (
        _begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]), above.subject, key, now, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above_key.public_key()), critical=False)
        .add_extension(x509.UnrecognizedExtension(_CARRIED, above.public_bytes(serialization.Encoding.DER)), critical=False)
        .sign(above_key, hashes.SHA256())
    )
    return Pair(made.public_bytes(serialization.Encoding.PEM) + signer.certificate, _private(key))


def is_old(certificate: bytes, now: float) -> bool:
    """Whether less than a month is left."""
    found = x509.load_pem_x509_certificate(certificate)
    return found.not_valid_after_utc - _moment(now) < _RENEW_DAYS * _DAY


def check_given(certificate: bytes, key: bytes, host: str, now: float) -> None:
    """Raise ``UsageError`` unless a certificate that was given fits its key, the address and the time."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        fits = serialization.load_pem_private_key(key, None).public_key() == found.public_key()
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound) as exc:
        raise _unfit(f"the certificate or its key cannot be used: {exc}") from exc
    if not fits:
        raise _unfit("the key is not that of the certificate")
    if not found.not_valid_before_utc <= _moment(now) <= found.not_valid_after_utc:
        raise _unfit(f"the certificate is valid from {found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}")
    known = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    star = "*." + host.partition(".")[2]
    if not {host.lower(), star.lower()} & {name.lower() for name in known}:
        raise _unfit(f"the certificate is for {', '.join(known)[:200]}, not for {host}")


def pin(certificate: bytes) -> bytes:
    """16 bytes that stand for an authority (PEM)."""
    der = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).digest()[:PIN]


def carried(shown: bytes, pinned: bytes) -> str:
    """The authority (PEM) inside a server's certificate (DER); raises ``ValueError`` unless it is the pinned one."""
    try:
        extension = x509.load_der_x509_certificate(shown).extensions.get_extension_for_oid(_CARRIED).value
    except x509.ExtensionNotFound as exc:
        raise ValueError("no relay's certificate") from exc
    der = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if hashlib.sha256(der).digest()[:PIN] != pinned:
        raise ValueError("another relay's certificate")
    return ssl.DER_cert_to_PEM_cert(der)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, days: int
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now) - 2 * _DAY)  # clocks differ
        .not_valid_after(_moment(now) + days * _DAY)
    )


def _moment(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now, datetime.UTC)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _unfit(why: str) -> UsageError:
    return UsageError("E-CERTIFICATE", why, fix="overnight relay init --host NAME   # without --cert: the relay makes its own")


def shown(host: str, port: int, patience: float = 10.0) -> bytes:
    """The certificate (DER) that a server shows, unchecked. Raises ``OSError``, and what ``proxy.connected`` raises."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        proxy.connected(host, port, patience) as plain,
        context.wrap_socket(plain, server_hostname=host.strip("[]")) as found,
    ):
        return found.getpeercert(binary_form=True) or b""
