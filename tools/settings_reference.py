"""Writes docs/settings.md from the settings models, so that the reference cannot drift from the code.

python -m tools.settings_reference
"""

from __future__ import annotations

import importlib
import inspect
import json
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from agent.fitting import DECODERS
from agent.models.manifest import Manifest
from agent.settings import Settings
from agent.settings.documentation import document
from agent.settings.scope import Scope, scope_of, section_inside, section_of

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """\
# {title}

<!-- Written by `python -m tools.settings_reference`; a test compares it with the code. -->

{introduction}
"""

DECODERS_HEAD = """
## Decoders

What stands in `[decoder]` beside `name`; docs/models.md tells which is for which head.
"""

SETTINGS_INTRODUCTION = """\
Settings are TOML. Every key can also come from the environment (`EDGEBEAT_MQTT__URL`, and
`EDGEBEAT_STREAMS__0__MAX_FPS` for the first stream). The command line wins over the environment, the environment over
the file, the file over the default. `edgebeat check --config FILE` validates and prints where each value came from.
Relative paths start at the working folder of the process.

`from afar` tells whether a field may be changed over MQTT (docs/remote.md), and when that takes effect: `live` from
the next frame on; `reload` after the sources and models that it concerns were opened and loaded again; `restart` from
the agent's next start on; `never`: it belongs to the device. Accepted remote settings come between the environment
and the file.
"""

MANIFEST_INTRODUCTION = """\
A model is a folder: the network, `model.toml`, its labels, its licence and a golden sample. docs/models.md tells how
to write one; this page lists every key.
"""


def settings_page() -> str:
    """Return the whole of docs/settings.md."""
    return _page("Settings", SETTINGS_INTRODUCTION, Settings, has_scopes=True)


def manifest_page() -> str:
    """Return the whole of docs/model-toml.md."""
    return _page("model.toml", MANIFEST_INTRODUCTION, Manifest) + _decoders()


def _decoders() -> str:
    """Return the options of every decoder, which stand in `[decoder]`."""
    parts = [DECODERS_HEAD]
    for name, reference in DECODERS.items():
        module, _, decoder = reference.partition(":")
        options = getattr(importlib.import_module(module), decoder.replace("Decoder", "Options"))
        document(options)
        fields = [item for item in options.model_fields.items() if item[0] != "name"]
        parts.append(f"\n### `{name}`\n\n{_table(fields)}")
    return "".join(parts)


def _page(title: str, introduction: str, model: type[BaseModel], *, has_scopes: bool = False) -> str:
    parts = [HEAD.format(title=title, introduction=introduction)]
    document(model)
    top, sections = [], []
    for name, field in model.model_fields.items():
        section, is_list = section_of(field.annotation)
        if section is None:
            top.append((field.alias or name, field))
        else:
            sections += _sections(name, section, is_list=is_list, has_scopes=has_scopes)
    if top:
        parts.append(_table(top, has_scopes=has_scopes))
    return "\n".join(parts).rstrip() + "\n" + "".join(sections)


def _sections(path: str, section: type[BaseModel], *, is_list: bool, has_scopes: bool) -> list[str]:
    """Return the text of a section, and of those inside it."""
    heading = f"[[{path}]]" if is_list else f"[{path}]"
    table = _table(list(section.model_fields.items()), has_scopes=has_scopes)
    texts = [f"\n## `{heading}`\n\n{inspect.getdoc(section) or ''}\n\n{table}"]
    for name, field in section.model_fields.items():
        inner, inner_is_list = section_of(field.annotation)
        if inner is not None:
            texts += _sections(f"{path}.{name}", inner, is_list=inner_is_list, has_scopes=has_scopes)
    return texts


def _table(fields: list[tuple[str, typing.Any]], *, has_scopes: bool = False) -> str:
    rows = ["| key | default | from afar | what |", "|---|---|---|---|"]
    if not has_scopes:
        rows = ["| key | default | what |", "|---|---|---|"]
    for name, field in fields:
        if field.default_factory is not None:
            default = "computed"
        elif field.default is PydanticUndefined:
            default = "required"
        elif field.default is None:
            default = "none"
        else:
            value = field.default
            value = value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
            default = f"`{json.dumps(value, default=str)}`"
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        scope = scope_of(field)
        told = "by field" if section_inside(field) is not None else "never" if scope is Scope.LOCAL_ONLY else scope
        mark = f" {told} |" if has_scopes else ""
        rows.append(f"| `{field.alias or name}` | {default} |{mark} {text} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write both pages."""
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "model-toml.md").write_text(manifest_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
