"""The certificate that is served: read from files, and read again when they change."""

import asyncio
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ..errors import SettingError
from ..log import log
from ..metrics import Metrics
from ..settings import TlsSettings

#: How often the files are looked at, in s. What is the same at two looks is taken: nobody is writing it.
_LOOK_S = 0.4

_Fingerprint = tuple[tuple[int, ...], ...]


class Certificates:
    """What new connections are met with. A context is never changed, but replaced: so clients of a CA that is trusted
    no more cannot resume a session, either.

    Raises SettingError where the files cannot be used at the start; later, what was in force stays so.
    """

    def __init__(self, tls: TlsSettings, metrics: Metrics) -> None:
        self._tls = tls
        self._metrics = metrics
        self._taken: _Fingerprint = ()
        self._error = ""
        self.context = self._read()

    def take(self, tls: TlsSettings) -> None:
        """Read the files of these settings now."""
        self._tls = tls
        try:
            self.context = self._read()
        except SettingError as error:
            self._taken = ()
            if str(error) != self._error:
                log.error("the certificate stays as it was", error=str(error))
            self._error = str(error)
            return
        self._error = ""
        log.info("the certificate was read again")

    async def watch(self) -> None:
        """Take what changes, again and again."""
        seen = self._taken
        while True:
            await asyncio.sleep(_LOOK_S)
            found = _fingerprint(self._tls)
            if found == seen and found != self._taken:
                self.take(self._tls)
            seen = found

    def _read(self) -> ssl.SSLContext:
        before = _fingerprint(self._tls)
        context, certificate = read_context(self._tls)
        if _fingerprint(self._tls) != before:
            raise SettingError(f"tls.certificate is '{self._tls.certificate}': it changed while it was read")
        self._taken = before
        expires_s = certificate.not_valid_after_utc.timestamp()
        if expires_s < time.time():
            log.warning("the certificate has expired", file=str(self._tls.certificate), since=_day(certificate))
        self._metrics.certificate_expires(expires_s)
        return context


def read_context(tls: TlsSettings) -> tuple[ssl.SSLContext, x509.Certificate]:
    """A new context of these files, and the server's certificate. Raises SettingError naming the file."""
    certificates = _certificates("certificate", tls.certificate)
    try:
        load_pem_private_key(_content("key", tls.key), None)
    except TypeError:
        raise SettingError(f"tls.key is '{tls.key}': it has a password; one without is needed") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingError(f"tls.key is '{tls.key}': there is no private key in PEM") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A password is asked for at the terminal where none is given, were the key replaced just now.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            message = f"tls.key is '{tls.key}': it does not belong to the certificate '{tls.certificate}'"
        else:
            message = f"tls.certificate is '{tls.certificate}', tls.key '{tls.key}': {_why(error)}"
        raise SettingError(message) from None
    if tls.client_ca is not None:
        trusted = _content("client_ca", tls.client_ca)
        _certificates("client_ca", tls.client_ca)
        try:
            context.load_verify_locations(cadata=trusted.decode("ascii", "replace"))
        except (OSError, ValueError) as error:
            raise SettingError(f"tls.client_ca is '{tls.client_ca}': {_why(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        # Its signature is enough, whether it signed itself or was signed by another one.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context, certificates[0]


def _content(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingError(f"tls.{key} is '{path}': it cannot be read: {error.strerror or error}") from None


def _certificates(key: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_content(key, path))
    except ValueError:
        raise SettingError(f"tls.{key} is '{path}': there is no certificate in PEM") from None


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason).replace("_", " ").lower()


def _day(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.date().isoformat()


def _fingerprint(tls: TlsSettings) -> _Fingerprint:
    """Changes with the files, also where a link leads elsewhere."""

    def parts() -> Iterator[tuple[int, ...]]:
        for path in (tls.certificate, tls.key, tls.client_ca):
            try:
                found = path.stat() if path is not None else None
            except OSError:
                found = None
            yield (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) if found is not None else ()

    return tuple(parts())
