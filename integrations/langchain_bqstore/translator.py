"""Structured queries, as `SelfQueryRetriever` gets them from an LLM, as filters of bqstore. Knows no store."""

from collections.abc import Mapping
from typing import Any, Final

from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery, Visitor

_COMPARATORS: Final = {
    Comparator.EQ: "$eq",
    Comparator.NE: "$ne",
    Comparator.GT: "$gt",
    Comparator.GTE: "$gte",
    Comparator.LT: "$lt",
    Comparator.LTE: "$lte",
    Comparator.CONTAIN: "$contains",
    Comparator.IN: "$in",
    Comparator.NIN: "$nin",
}


class BQTranslator(Visitor):
    """From LangChain's structured query to the ``filter`` of a `BQVectorStore`.

    Example::

        retriever = SelfQueryRetriever.from_llm(
            llm, store, "Summaries of films", metadata_field_info, structured_query_translator=BQTranslator()
        )
        retriever.invoke("What did Kurosawa make before 1960?")

    All ten comparators and the three operators are allowed. Each means what the operator of that name means in
    `bqstore.Collection.search`; two want a word more:

    - ``like`` is a piece of the text, case-sensitive: ``like("title", "War")`` finds "Star Wars", as Qdrant's does. A
      value with a ``%`` is an SQL pattern for the whole text instead, as in PGVector: ``like("title", "Star%")``; there
      ``_`` is any one character and a backslash escapes. Without a ``%`` neither is special.
    - ``contain`` is an element of a list, or a piece of a string; with a list of values, all of them.

    Dates and datetimes become ISO 8601 strings, as they are in metadata. A value or an attribute that bqstore does not
    take is a `bqstore.InvalidInputError` of the search.
    """

    allowed_comparators = (*_COMPARATORS, Comparator.LIKE)
    allowed_operators = (Operator.AND, Operator.OR, Operator.NOT)

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """A condition on one field."""
        self._validate_func(comparison.comparator)
        value = _plain(comparison.value)
        if comparison.comparator == Comparator.LIKE:
            return {comparison.attribute: {"$like": _pattern(value)}}
        if comparison.comparator == Comparator.CONTAIN and value == []:
            return {comparison.attribute: {"$exists": True}}
        if comparison.comparator == Comparator.CONTAIN and isinstance(value, list):
            return {"$and": [{comparison.attribute: {"$contains": each}} for each in value]}
        return {comparison.attribute: {_COMPARATORS[comparison.comparator]: value}}

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """Conditions joined; ``not`` of several: none of them matches."""
        self._validate_func(operation.operator)
        parts = [part.accept(self) for part in operation.arguments]
        if operation.operator == Operator.NOT:
            return {"$not": parts[0] if len(parts) == 1 else {"$or": parts}}
        return {f"${operation.operator.value}": parts}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """The text to search for, and the keywords of the search."""
        if structured_query.filter is None:
            return structured_query.query, {}
        return structured_query.query, {"filter": structured_query.filter.accept(self)}


def _plain(value: Any) -> Any:
    """A value as metadata holds it: LangChain writes ``{"date": "2024-01-01", "type": "date"}`` for a date."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping) and value.get("type") in ("date", "datetime"):
        return value.get(value["type"], value)
    return value


def _pattern(value: Any) -> Any:
    """What ``$like`` makes of a value of ``like``."""
    if not isinstance(value, str) or "%" in value:
        return value
    for special in ("\\", "_"):
        value = value.replace(special, "\\" + special)
    return f"%{value}%"
