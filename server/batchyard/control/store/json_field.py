"""A number in a JSON column, taken out by the database itself, so that a million payloads need not be decoded here."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction


class json_number(GenericFunction[float]):  # noqa: N801 - a function of SQL
    """The number in the field `name`; NULL where there is none. Where JSON has no such number, payload.py has stored an
    object: then NaN, but in SQLite, which has no NaN, that object as text.
    """

    type = Double()
    inherit_cache = True

    def __init__(self, column: Column[Any], name: str) -> None:
        super().__init__(column, name)


@compiles(json_number, "sqlite")
def _sqlite(element: json_number, compiler: Any, **options: Any) -> str:
    column, name = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_extract({column}, '$.' || {name})"


@compiles(json_number, "postgresql")
def _postgresql(element: json_number, compiler: Any, **options: Any) -> str:
    column, name = (compiler.process(clause, **options) for clause in element.clauses)
    value = f"({column} ->> {name})"
    kinds = f"WHEN 'number' THEN {value}::float8 WHEN 'object' THEN 'NaN'::float8"
    return f"CASE json_typeof({column} -> {name}) {kinds} END"
