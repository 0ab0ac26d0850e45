"""The bodies of requests and answers."""

from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema
from sqlalchemy import inspect
from sqlalchemy.orm import object_session


class RequestBody(BaseModel):
    """The JSON of a request: no undeclared field, and no number as text.

    class ReceiveStock(RequestBody, example={"quantity": 100}):
        quantity: Quantity
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    _example: ClassVar[Any] = None

    def __init_subclass__(cls, *, example: Any = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls._example = example

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
        for inner in _bodies(body.model_fields[name].annotation):
            for field in inner.model_fields if inner is not body else ():  # a tree's answer holds its own kind
                yield from _unknown(inner, field, related.mapper.class_)


def _bodies(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _bodies(argument)
