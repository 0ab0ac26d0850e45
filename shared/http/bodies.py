"""The bodies of requests and answers."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, field_validator
from pydantic_core import CoreSchema, PydanticCustomError
from sqlalchemy import inspect
from sqlalchemy.orm import object_session

from ..declaration.annotations import classes_in

INTEGERS = range(-(2**63), 2**63)
"""Whole numbers that a column and an event can hold."""


def storable(value: Any) -> Any:
    """Return a value of a request: a parameter, or the field of a body. Raises pydantic's error for one that no
    database and no event can hold; it is the client's fault, and answered with 422.
    """
    match value:
        case bool() | None:
            pass
        case int() if value not in INTEGERS:
            raise PydanticCustomError("int_size", "Input should be a whole number of at most 64 bits")
        case float() if not math.isfinite(value):
            raise PydanticCustomError("finite_number", "Input should be a finite number")
        case str() if "\0" in value or not _encodable(value):
            raise PydanticCustomError("string_unicode", "Input should be text without NUL and lone surrogates")
        case Mapping():
            for key, one in value.items():
                storable(key)
                storable(one)
        case list() | tuple() | set() | frozenset():
            for one in value:
                storable(one)
        case RequestBody():
            pass  # its own fields are checked
        case BaseModel():
            storable(vars(value))
            storable(value.model_extra)
        case _:
            pass
    return value


def _encodable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


class RequestBody(BaseModel):
    """The JSON of a request: no undeclared field, no number as text, and nothing that no column can hold: whole numbers
    beyond 64 bits, NUL or lone surrogates in text.

    class ReceiveStock(RequestBody, example={"quantity": 100}):
        quantity: Quantity
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    _example: ClassVar[Any] = None

    def __init_subclass__(cls, *, example: Any = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls._example = example

    @field_validator("*", mode="after")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        return storable(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the example for OpenAPI."""
        found = handler(schema)
        if cls._example is not None:
            handler.resolve_ref_schema(found)["example"] = cls._example
        return found


class ResponseBody(BaseModel):
    """The JSON of an answer, which `of` fills in from a row by column name.

        class StockLevel(ResponseBody, of=Stock):
            sku: str
            available: int

        StockLevel.of(item)

    The field of a relationship is filled in from its rows: `lines: list[Line]`. `given` names the fields that are
    neither; pass them to `of` by name.
    """

    _model: ClassVar[type[Any] | None] = None
    _given: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, *, of: type[Any] | None = None, given: Collection[str] = (), **more: Any) -> None:
        super().__init_subclass__(**more)
        if of is not None:
            cls._model, cls._given = of, frozenset(given)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse a field that the table lacks. Raises `TypeError`."""
        if cls._model is None:
            return
        for name in cls._filled():
            for body, field, model in _unknown(cls, name, cls._model):
                raise TypeError(
                    f"{body.__name__} has the field {field}, and {model.__name__} has no such column: correct it, "
                    f"or name {name} in `given=(...)` and give it to `{cls.__name__}.of(row, {name}=...)`"
                )

    @classmethod
    def of(cls, row: Any, **given: Any) -> Self:
        """Return the body for a row. A new row is written first, so that the database's defaults are known."""
        if cls._model is None or not isinstance(row, cls._model):
            wanted = cls._model.__name__ if cls._model is not None else "nothing: declare `of=Model`"
            raise TypeError(f"{cls.__name__}.of(...) was given a {type(row).__name__}; it is made of {wanted}")
        session = object_session(row)
        if session is not None and row in session.new:
            session.flush()
        columns = {name: getattr(row, name) for name in cls._filled()}
        return cls.model_validate({**columns, **given}, from_attributes=True)

    @classmethod
    def _filled(cls) -> list[str]:
        """Return the fields that a row fills in."""
        return [name for name in cls.model_fields if name not in cls._given]


def _unknown(body: type[BaseModel], name: str, model: Any) -> Iterator[tuple[type[BaseModel], str, Any]]:
    """Yield the field `name` of `body` if `model` lacks it, or the fields below it that a relationship's rows lack."""
    if not hasattr(model, name):
        yield body, name, model
    elif (related := inspect(model).relationships.get(name)) is not None:
        for inner in classes_in(body.model_fields[name].annotation, BaseModel):
            for field in inner.model_fields if inner is not body else ():  # a tree's answer holds its own kind
                yield from _unknown(inner, field, related.mapper.class_)
