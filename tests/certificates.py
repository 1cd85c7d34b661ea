"""Certificates for tests."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_NOW = datetime.datetime.now(datetime.timezone.utc)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        """The key."""
        hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return self.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)

    @property
    def serial(self) -> str:
        """As Python's ssl says it."""
        return f"{self.certificate.serial_number:X}"

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Its two files."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(paths, (self.pem, self.key_pem()), strict=True):
            path.write_bytes(content)
        return paths


def made(name: str, issuer: Identity | None = None, is_ca: bool = False, days: int = 10) -> Identity:
    """A new identity, signed by `issuer` or by itself."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(private.public_key())
        # Without a leading zero, which Python's ssl would say.
        .serial_number(x509.random_serial_number() >> 8 | 1 << 150)
        .not_valid_before(_NOW - datetime.timedelta(days=5))
        .not_valid_after(_NOW + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_ca, None), True)
    )
    if not is_ca:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return Identity(builder.sign(issuer.private if issuer else private, hashes.SHA256()), private)
