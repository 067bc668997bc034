"""Signed manifests: Ed25519 over the raw payload, with public keys from a file that only root may change."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.located_json import UnreadableError, parse
from agent.core.release import ReleaseRefusedError
from agent.errors import ConfigError

ENVELOPE_BYTES_MAX = 48 << 10
"""A payload of 32 KiB in base64, and a signature."""
KEYS_MAX = 16
KEYS_FILE_BYTES_MAX = 16 << 10

_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Signed:
    """A manifest as it travels: `{"payload": base64, "keyid": name, "sig": base64}`."""

    payload: bytes
    key_id: str
    signature: bytes


def read_envelope(text: bytes) -> Signed:
    """Read a manifest as it travels; its signature is not looked at.

    Raises:
        ReleaseRefusedError: `malformed`.
    """
    try:
        body = parse(text, ENVELOPE_BYTES_MAX)
    except UnreadableError as error:
        raise ReleaseRefusedError("malformed", f"the manifest {error}") from None
    return envelope_of(body)


def envelope_of(body: Any) -> Signed:
    """See `read_envelope`; of parsed JSON.

    Raises:
        ReleaseRefusedError: `malformed`.
    """
    keys = {"payload", "keyid", "sig"}
    if not isinstance(body, dict) or body.keys() != keys or not all(isinstance(body[key], str) for key in keys):
        raise ReleaseRefusedError("malformed", "the manifest must have payload, keyid and sig, each a text")
    try:
        payload = base64.b64decode(body["payload"], validate=True)
        signature = base64.b64decode(body["sig"], validate=True)
    except (binascii.Error, ValueError):
        raise ReleaseRefusedError("malformed", "the manifest's payload or sig is not base64") from None
    return Signed(payload, body["keyid"], signature)


def verify(signed: Signed, keys: Mapping[str, bytes]) -> bytes:
    """Return the payload of a manifest that a trusted key signed.

    Raises:
        ReleaseRefusedError: `unknown_key`, `bad_signature`.
        ConfigError: the extra `updates` is not installed.
    """
    signing = _nacl()
    from nacl.exceptions import CryptoError

    key = keys.get(signed.key_id)
    if key is None:
        known = ", ".join(sorted(keys)) or "none"
        raise ReleaseRefusedError("unknown_key", f"key {signed.key_id[:64]!r} is not trusted here: known are {known}")
    try:
        signing.VerifyKey(key).verify(signed.payload, signed.signature)
    except (ValueError, TypeError, CryptoError):
        raise ReleaseRefusedError("bad_signature", f"the signature is not by key {signed.key_id!r}") from None
    return signed.payload


def load_keys(file: Path) -> dict[str, bytes]:
    """Return the trusted public keys by name: lines of `name base64`, `#` begins a comment.

    Raises:
        ConfigError: the file cannot be read, somebody else may change it, or a line is wrong.
    """
    try:
        mode = file.stat().st_mode
        with file.open("rb") as stream:
            text = stream.read(KEYS_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"updates.keys_file {file}: cannot be read: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"updates.keys_file {file}: others may write to it: chmod go-w {file}")
    if len(text) > KEYS_FILE_BYTES_MAX:
        raise ConfigError(f"updates.keys_file {file}: has more than {KEYS_FILE_BYTES_MAX} bytes")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.decode("utf-8", errors="replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            name, key = words[0], base64.b64decode(words[1], validate=True)
        except (IndexError, ValueError):
            name, key = "", b""
        if not _KEY_ID.fullmatch(name) or len(key) != 32 or name in keys or len(words) != 2 or len(keys) == KEYS_MAX:
            raise ConfigError(
                f"{file}:{number}: write a name of its own and 32 bytes in base64, {KEYS_MAX} lines at most; "
                "edgebeat model keygen makes them"
            )
        keys[name] = key
    return keys


def generate_key(name: str) -> tuple[str, str]:
    """Return a new key as the texts of two files: the secret one for `sign`, and the line that devices trust.

    Raises:
        ConfigError: the name is no name, or the extra `updates` is not installed.
    """
    if not _KEY_ID.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a key: letters, digits, '.', '_' and '-', 64 at most")
    seed = secrets.token_bytes(32)
    public = bytes(_nacl().SigningKey(seed).verify_key)
    secret = {"keyid": name, "ed25519_seed": base64.b64encode(seed).decode()}
    return json.dumps(secret) + "\n", f"{name} {base64.b64encode(public).decode()}\n"


def sign(payload: bytes, secret: str) -> dict[str, str]:
    """Return a manifest as it travels.

    Args:
        payload: of the manifest.
        secret: text of the key's secret file.

    Raises:
        ConfigError: that is no secret key, or the extra `updates` is not installed.
    """
    signing_key = _nacl().SigningKey
    try:
        body = json.loads(secret)
        key_id, key = body["keyid"], signing_key(base64.b64decode(body["ed25519_seed"], validate=True))
    except (ValueError, KeyError, TypeError):
        raise ConfigError("the key file holds no secret key of edgebeat model keygen") from None
    return {
        "payload": base64.b64encode(payload).decode(),
        "keyid": key_id,
        "sig": base64.b64encode(key.sign(payload).signature).decode(),
    }


def _nacl() -> Any:
    try:
        from nacl import signing  # An extra; 2 MiB.
    except ImportError:
        raise ConfigError('updates need PyNaCl: pip install "edgebeat[updates]"') from None
    return signing
