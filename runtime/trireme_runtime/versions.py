"""What a server asks of a version before it loads it: that it is what its manifest says, and signed where it must be.

Signatures are those of model-signing (the OpenSSF's format, a Sigstore bundle) with an elliptic-curve key, over every
file of the folder, manifest included. Any tool for that format can check them.
"""

import os
from pathlib import Path
from typing import Any

from .manifest import IGNORED_FOLDERS, SIGNATURE, ManifestError, verify_manifest

#: In the environment of a server: the public key that every version must be signed for.
KEY_VARIABLE = "TRIREME_VERSION_KEY"

#: In the environment of whoever signs: the password of an encrypted private key.
PASSWORD_VARIABLE = "TRIREME_KEY_PASSWORD"


def verify_version(folder: Path, public_key: Path | None = None) -> dict[str, Any]:
    """Check a version folder, what is generated inside it too, and its signature if there is a `public_key`.

    Returns its manifest. Raises ManifestError that names the first file that is not as it should be.
    """
    manifest = verify_manifest(folder)
    generated = sorted(path.parent for path in folder.glob("*/manifest.json"))
    for inner in generated:
        verify_manifest(inner)
    if public_key is not None:
        verify_signature(folder, public_key)
        if generated:
            raise ManifestError(
                f"{generated[0]}: was made on this machine and is not signed; publish a version with trireme build"
            )
    return manifest


def key_of_environment() -> Path | None:
    """The public key that $TRIREME_VERSION_KEY names, if it names one."""
    named = os.environ.get(KEY_VARIABLE)
    return Path(named) if named else None


def public_key_of(private_key: Path) -> bytes:
    """The public key, in PEM, of an elliptic-curve private key; $TRIREME_KEY_PASSWORD opens an encrypted one.

    Raises ManifestError for a file that holds no such key, and for a password that is missing or wrong.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), _password())
    except (OSError, TypeError, ValueError) as error:
        raise ManifestError(f"{private_key}: cannot be used to sign: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ManifestError(f"{private_key}: cannot be used to sign: a private key of an elliptic curve is needed")
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, kind)


def _password() -> bytes | None:
    password = os.environ.get(PASSWORD_VARIABLE)
    return password.encode() if password else None


def sign(folder: Path, private_key: Path) -> None:
    """Sign a folder: write `signature.json` into it. Raises ManifestError, see `public_key_of`."""
    from model_signing import signing

    public_key_of(private_key)
    password: Any = _password()
    config = signing.Config().use_elliptic_key_signer(private_key=private_key, password=password)
    try:
        config.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{private_key}: cannot be used to sign: {error}") from error


def verify_signature(folder: Path, public_key: Path) -> None:
    """Check `signature.json` of a folder. Raises ManifestError if it is missing, another's, or of other files."""
    # Slow to import, and only needed where signatures are asked for.
    from model_signing import verifying

    if not (folder / SIGNATURE).is_file():
        raise ManifestError(f"{folder}: is not signed; {SIGNATURE} is missing")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing()).verify(folder, folder / SIGNATURE)
    except Exception as error:
        # What a key or a bundle that is none raises is not documented.
        raise ManifestError(
            f"{folder}: {SIGNATURE} is not one of {public_key}: {error or type(error).__name__}"
        ) from error


def _hashing() -> Any:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE, *sorted(IGNORED_FOLDERS)], ignore_git_paths=False)
