"""The generated pages are current, and the repository keeps its own rules."""

from __future__ import annotations

import json
import re
import subprocess

from jsonschema import Draft202012Validator

from agent.cli.load import load_settings
from tests.paths import REPOSITORY
from tests.schemas import validator
from tools.settings_reference import manifest_page, settings_page
from tools.wire_contract import pages as wire_pages


def test_the_reference_pages_are_current() -> None:
    """`python -m tools.settings_reference` writes them anew."""
    assert (REPOSITORY / "docs/settings.md").read_text() == settings_page()
    assert (REPOSITORY / "docs/model-toml.md").read_text() == manifest_page()


def test_the_schemas_and_the_asyncapi_document_are_current() -> None:
    """`python -m tools.wire_contract` writes them anew; each schema is valid, each reference leads somewhere."""
    for path, text in wire_pages().items():
        assert path.read_text() == text, path
    for path in (REPOSITORY / "docs/schemas").iterdir():
        Draft202012Validator.check_schema(json.loads(path.read_text()))
    document = json.loads((REPOSITORY / "docs/asyncapi.json").read_text())
    for name, channel in document["channels"].items():
        (reference,) = (message["$ref"] for message in channel["messages"].values())
        message = document["components"]["messages"][reference.rpartition("/")[2]]
        assert (REPOSITORY / "docs" / message["payload"]["schema"]["$ref"]).is_file()
        (operation,) = (
            op for key, op in document["operations"].items() if key in (f"send_{name}", f"receive_{name}")
        )
        assert operation["channel"]["$ref"] == f"#/channels/{name}"
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])


def test_the_example_result_of_the_docs_is_valid() -> None:
    """People copy it."""
    (example,) = re.findall(r"```json\n(.*?)```", (REPOSITORY / "docs/mqtt.md").read_text(), re.DOTALL)
    validator("result").validate(json.loads(example))


def test_every_setting_is_explained() -> None:
    """No row without its text."""
    for page in (settings_page(), manifest_page()):
        assert "|  |" not in page


def test_the_example_settings_are_valid() -> None:
    """What people copy must work."""
    for name in ("config/agent.toml", "config/demo/agent.toml"):
        assert load_settings(REPOSITORY / name, {}, {}).settings.streams


def test_no_file_names_a_machine() -> None:
    """No path of somebody's machine and no registry's host in what is committed."""
    patterns = "/work" + "/|/home/[a-z]|pypi" + r"\.org|registry" + r"\.npmjs"
    command = ["git", "grep", "-nE", patterns, "--", ".", ":!*.onnx"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode in (1, 128), found.stdout  # 1: nothing found; 128: not a git checkout.
