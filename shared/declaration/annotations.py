"""What handlers and endpoints read from the types in their signatures."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

Kind = TypeVar("Kind")


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; any other type alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def classes_in(annotation: Any, kind: type[Kind]) -> Iterator[type[Kind]]:
    """Yield every subclass of `kind` that an annotation names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, kind):
        yield annotation
    for argument in get_args(annotation):
        yield from classes_in(argument, kind)
