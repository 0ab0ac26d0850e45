"""What a request brings, and what an answer holds."""

from collections.abc import Collection
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema
from sqlalchemy.orm import object_session


class RequestBody(BaseModel):
    """The JSON of a request: no field that is not declared, and no number as a text.

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
    """The JSON of an answer, which `of` fills in from a row, by the names of the columns.

        class StockLevel(ResponseBody, of=Stock):
            sku: str
            available: int

        StockLevel.of(item)

    `given` names the fields that are no columns; they are given to `of` by name.
    """

    _model: ClassVar[type[Any] | None] = None
    _given: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, *, of: type[Any] | None = None, given: Collection[str] = (), **more: Any) -> None:
        super().__init_subclass__(**more)
        if of is not None:
            cls._model, cls._given = of, frozenset(given)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse a field that the table has not got. Raises `TypeError`."""
        if cls._model is None:
            return
        unknown = [name for name in cls.model_fields if name not in cls._given and not hasattr(cls._model, name)]
        if unknown:
            raise TypeError(
                f"{cls.__name__} has the field {unknown[0]}, and {cls._model.__name__} has no such column: correct it, "
                f"or name it in `given=(...)` and give it to `{cls.__name__}.of(row, {unknown[0]}=...)`"
            )

    @classmethod
    def of(cls, row: Any, **given: Any) -> Self:
        """Make the body of a row. A new row is written first, so that its defaults of the database are known."""
        if cls._model is None or not isinstance(row, cls._model):
            wanted = cls._model.__name__ if cls._model is not None else "nothing: declare `of=Model`"
            raise TypeError(f"{cls.__name__}.of(...) was given a {type(row).__name__}; it is made of {wanted}")
        session = object_session(row)
        if session is not None and row in session.new:
            session.flush()
        columns = {name: getattr(row, name) for name in cls.model_fields if name not in cls._given}
        return cls.model_validate({**columns, **given})
