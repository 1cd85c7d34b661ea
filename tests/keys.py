"""Elliptic-curve keys for tests."""

import subprocess
from pathlib import Path


def key_pair(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """A new key: the private file, and the public one."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public
