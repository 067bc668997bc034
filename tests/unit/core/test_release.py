"""Manifests: what is right is read, everything else is refused with its reason."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.release import FILES_MAX, Release, ReleaseRefusedError, Terms, check_terms, parse_release

SHA = "a" * 64
FILE = {"path": "model.toml", "url": "https://models.test/m/model.toml", "size": 10, "sha256": SHA}
BODY: dict[str, Any] = {"schema": 1, "name": "coco", "seq": 7, "files": [FILE]}
TERMS = Terms(frozenset({"coco"}), frozenset({"models.test"}), 1000, "aarch64", "1.25.1")


def payload(**changes: Any) -> bytes:
    """Return a manifest with some keys changed; None removes one."""
    return json.dumps({key: value for key, value in (BODY | changes).items() if value is not None}).encode()


def file(**changes: Any) -> list[dict[str, Any]]:
    """Return a list of one file with some keys changed."""
    return [FILE | changes]


def test_a_manifest_is_read_as_it_is_written() -> None:
    """With everything that is optional."""
    release = parse_release(
        payload(version="2.1", architectures=["aarch64"], onnxruntime_min="1.23", allow_downgrade=True)
    )
    assert (release.name, release.seq, release.version) == ("coco", 7, "2.1")
    assert (release.architectures, release.onnxruntime_min, release.allow_downgrade) == (("aarch64",), "1.23", True)
    assert release.files[0].size_bytes == release.size_bytes == 10
    check_terms(release, TERMS, 6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON|Expecting"),
        (b"[]", "must be an object"),
        (payload(schema=2), "schema must be 1"),
        (payload(extra=1), "unknown keys: extra"),
        (payload(name="../etc"), "no model's name"),
        (payload(seq=0), "seq must be"),
        (payload(seq=True), "seq must be"),
        (payload(seq=1.5), "seq must be"),
        (payload(version=1), "version must be text"),
        (payload(onnxruntime_min="new"), "no version such as"),
        (payload(architectures="aarch64"), "must be a list"),
        (payload(allow_downgrade=1), "true or false"),
        (payload(files=[]), "files must be a list"),
        (payload(files=[{**FILE, "path": f"f{n}"} for n in range(FILES_MAX + 1)]), "files must be a list"),
        (payload(files=[FILE, FILE]), "a path twice"),
        (payload(files=file(path="other")), "must name model.toml"),
        (payload(files=[FILE, {**FILE, "path": "../x"}]), "no plain file name"),
        (payload(files=[FILE, {**FILE, "path": ".hidden"}]), "no plain file name"),
        (payload(files=file(mode=7)), "path, url, size, sha256"),
        (payload(files=file(size=0)), "size must be"),
        (payload(files=file(size=3 << 30)), "size must be"),
        (payload(files=file(sha256="A" * 64)), "64 lower-case"),
        (payload(files=file(url="http://models.test/m")), "must be https"),
        (payload(files=file(url="file:///etc/passwd")), "must be https"),
        (payload(files=file(url="https://u:p@models.test/m")), "no user"),
        (payload(files=file(url="https://models.test:99999/m")), "no URL"),
        (payload(files=file(url="https:///m")), "name a host"),
        (payload(files=file(url="https://models.test/\n")), "no URL"),
        (b'{"seq": 1, "seq": 2}', "more than once"),
        (b"[" * 1000, "deeper"),
        (b" " * 40_000, "bytes"),
    ],
)
def test_what_is_wrong_is_refused(text: bytes, reason: str) -> None:
    """With the place and what would be right."""
    with pytest.raises(ReleaseRefusedError, match=reason) as caught:
        parse_release(text)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    ("changes", "seq_committed", "code"),
    [
        ({"name": "other"}, 0, "unknown_model"),
        ({}, 7, "downgrade"),
        ({"seq": 6}, 7, "downgrade"),
        ({"architectures": ["x86_64"]}, 0, "architecture"),
        ({"onnxruntime_min": "1.25.2"}, 0, "onnxruntime"),
        ({"onnxruntime_min": "2.0"}, 0, "onnxruntime"),
        ({"files": file(size=1001)}, 0, "too_large"),
        ({"files": file(url="https://models.test.evil/m")}, 0, "host"),
        ({"files": file(url="http://127.0.0.1:8000/m")}, 0, "host"),
    ],
)
def test_what_is_not_for_this_device_is_refused(changes: dict[str, Any], seq_committed: int, code: str) -> None:
    """Before a byte of it is fetched."""
    with pytest.raises(ReleaseRefusedError) as caught:
        check_terms(parse_release(payload(**changes)), TERMS, seq_committed)
    assert caught.value.code == code


def test_a_signed_downgrade_is_taken() -> None:
    """Only the manifest itself can say so."""
    check_terms(parse_release(payload(seq=3, allow_downgrade=True)), TERMS, 7)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_release_or_refused(text: bytes) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(ReleaseRefusedError):
        assert isinstance(parse_release(text), Release)
