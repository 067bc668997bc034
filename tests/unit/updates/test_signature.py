"""Signatures: a manifest by a key that the device trusts, and nothing else."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from agent.core.release import ReleaseRefusedError
from agent.errors import ConfigError
from agent.updates.signature import Signed, generate_key, load_keys, read_envelope, sign, verify


def trusted(folder: Path, *lines: str) -> Path:
    """Write a file of keys that only its owner may change."""
    file = folder / "keys"
    file.write_text("".join(lines))
    file.chmod(0o644)
    return file


def test_a_manifest_by_a_trusted_key(tmp_path: Path) -> None:
    """From the key to the payload, as the operator and the device do it."""
    secret, public = generate_key("fleet-2026")
    keys = load_keys(trusted(tmp_path, "# our keys\n\n", public))
    signed = read_envelope(json.dumps(sign(b"payload", secret)).encode())
    assert verify(signed, keys) == b"payload"


def test_anything_changed_is_refused(tmp_path: Path) -> None:
    """A flipped bit of the payload, another key under the same name, a key that nobody trusts."""
    secret, public = generate_key("ours")
    _, other = generate_key("ours")
    signed = read_envelope(json.dumps(sign(b"payload", secret)).encode())
    keys = load_keys(trusted(tmp_path, public))
    changes = [
        (Signed(b"paymoad", signed.key_id, signed.signature), keys, "bad_signature"),
        (Signed(signed.payload, signed.key_id, signed.signature[:-1]), keys, "bad_signature"),
        (signed, load_keys(trusted(tmp_path, other)), "bad_signature"),
        (Signed(signed.payload, "theirs", signed.signature), keys, "unknown_key"),
    ]
    for wrong, known, code in changes:
        with pytest.raises(ReleaseRefusedError) as caught:
            verify(wrong, known)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b'{"payload":"a","keyid":"k","sig":1}',
        b'{"payload":"?","keyid":"k","sig":"AA=="}',
        b"x" * 99_000,
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    """Before anything of it is used."""
    with pytest.raises(ReleaseRefusedError) as caught:
        read_envelope(text)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize("line", ["ours", "ours AAAA", "ours ???", f"../x {base64.b64encode(bytes(32)).decode()}"])
def test_a_line_that_is_no_key(tmp_path: Path, line: str) -> None:
    """With its number and what makes a right one."""
    with pytest.raises(ConfigError, match=r"keys:1: .*keygen"):
        load_keys(trusted(tmp_path, line))


def test_keys_that_others_may_change_are_not_trusted(tmp_path: Path) -> None:
    """With the command that mends it."""
    file = trusted(tmp_path, generate_key("ours")[1])
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod go-w"):
        load_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(tmp_path / "absent")


def test_a_file_that_holds_no_secret_key() -> None:
    """Such as the public one."""
    with pytest.raises(ConfigError, match="no secret key"):
        sign(b"payload", generate_key("ours")[1])
