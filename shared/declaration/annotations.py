"""What handlers and endpoints read from the types in their signatures."""

from types import UnionType
from typing import Any, Union, get_args, get_origin


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; any other type alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
