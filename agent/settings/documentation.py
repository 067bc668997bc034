"""The text under each field as its description, for the reference pages and the JSON Schema.

pydantic can do this when a class is made (`use_attribute_docstrings`), at the price of parsing every class's source
at each start: 80 ms of the agent's 900, on a desk. Nobody reads descriptions in a running agent.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel


def document(root: type[BaseModel]) -> type[BaseModel]:
    """Describe the fields of a model and of all models inside it by the docstrings under them; return the model."""
    for model in dict.fromkeys(_inner_first(root)):
        texts: dict[str, str] = {}
        for base in reversed(model.__mro__):
            if issubclass(base, BaseModel) and base.__module__.startswith("agent."):
                texts |= _texts(base)
        for name, field in model.model_fields.items():
            field.description = field.description or texts.get(name)
        model.model_rebuild(force=True)
    return root


def _inner_first(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from _inner_first(inner)
    yield model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _texts(model: type) -> dict[str, str]:
    """Return the docstring under each annotated name of a class body."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            texts[statement.target.id] = inspect.cleandoc(after.value.value)
    return texts
