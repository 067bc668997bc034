"""The mark on every field: when a change that comes from afar takes effect, or that it never may come from there."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

T = TypeVar("T")


class Scope(StrEnum):
    """Who may change a field, and how. The strings are the product's: `scope` in the JSON Schema."""

    LIVE = "live"
    """From the next frame on; nothing is opened or loaded again."""
    RELOAD = "reload"
    """The sources and models that it concerns are opened and loaded again; the other streams go on."""
    RESTART = "restart"
    """Accepted from afar, and in force from the agent's next start on."""
    LOCAL_ONLY = "local_only"
    """On the device alone: what reaches the broker, names files or identifies must not be changed from afar."""


Live = Annotated[T, Field(json_schema_extra={"scope": "live"})]
Reload = Annotated[T, Field(json_schema_extra={"scope": "reload"})]
Restart = Annotated[T, Field(json_schema_extra={"scope": "restart"})]
LocalOnly = Annotated[T, Field(json_schema_extra={"scope": "local_only"})]


def scope_of(field: FieldInfo) -> Scope:
    """Return a field's mark. One without a mark stays on the device; a test finds it."""
    extra = field.json_schema_extra
    return Scope(str(extra["scope"])) if isinstance(extra, dict) and "scope" in extra else Scope.LOCAL_ONLY


def section_of(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    """Return the section's model behind a field, and whether there may be several; None for a plain value."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate, candidate is not annotation and typing.get_origin(annotation) is tuple
    return None, False


def section_inside(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a field holds; None for a plain value, and for a list, which is one value."""
    model, is_list = section_of(field.annotation)
    return None if is_list else model


def may_come_from_afar(field: FieldInfo) -> bool:
    """Return whether a field, or one of the section that it holds, may be changed from afar."""
    section = section_inside(field)
    if section is None:
        return scope_of(field) is not Scope.LOCAL_ONLY
    return any(map(may_come_from_afar, section.model_fields.values()))


def leaf_fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield every plain field with its path; `*` stands for the items of a list."""
    for name, field in model.model_fields.items():
        section, is_list = section_of(field.annotation)
        if section is None:
            yield (*path, name), field
        else:
            yield from leaf_fields(section, (*path, name, "*") if is_list else (*path, name))
