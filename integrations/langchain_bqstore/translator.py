"""`BQTranslator`: structured queries, which `SelfQueryRetriever` gets from an LLM, as filters of bqstore."""

from __future__ import annotations

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
    """Translates LangChain's structured queries into the ``filter`` of a `BQVectorStore`.

    Pass it to LangChain's self-query retriever, here with a language model ``llm`` and a ``store``::

        retriever = SelfQueryRetriever.from_llm(
            llm, store, "Summaries of films", metadata_field_info, structured_query_translator=BQTranslator()
        )
        retriever.invoke("What did Kurosawa make before 1960?")

    All ten comparators and all three operators are supported. Each means the same as bqstore's operator of that name
    (see `bqstore.Collection.search`), except:

    - ``like`` matches a part of the text, case-sensitively, as in Qdrant: ``like("title", "War")`` finds "Star Wars".
      With a ``%`` in it the value is an SQL pattern for the whole text, as in PGVector: ``like("title", "Star%")``.
      Only then is ``_`` any one character and a backslash an escape.
    - ``contain`` matches an element of a list or a part of a string; with a list of values, all of them must match.

    Dates and datetimes become ISO 8601 strings, the form that metadata has them in. The search raises InvalidInputError
    for a value or attribute that bqstore does not support.

    >>> from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery
    >>> translator = BQTranslator()
    >>> before_1960 = Comparison(Comparator.LT, "year", 1960)
    """

    allowed_comparators = (*_COMPARATORS, Comparator.LIKE)
    allowed_operators = (Operator.AND, Operator.OR, Operator.NOT)

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """Translate a condition on one field.

        >>> translator.visit_comparison(before_1960)
        {'year': {'$lt': 1960}}
        """
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
        """Translate conditions joined by an operator; ``not`` of several means that none of them matches.

        >>> translator.visit_operation(Operation(Operator.NOT, [before_1960]))
        {'$not': {'year': {'$lt': 1960}}}
        """
        self._validate_func(operation.operator)
        parts = [part.accept(self) for part in operation.arguments]
        if operation.operator == Operator.NOT:
            return {"$not": parts[0] if len(parts) == 1 else {"$or": parts}}
        return {f"${operation.operator.value}": parts}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """Translate a whole query: return the text to search for, and the keyword arguments of the search.

        >>> translator.visit_structured_query(StructuredQuery("samurai", before_1960))
        ('samurai', {'filter': {'year': {'$lt': 1960}}})
        """
        if structured_query.filter is None:
            return structured_query.query, {}
        return structured_query.query, {"filter": structured_query.filter.accept(self)}


def _plain(value: Any) -> Any:
    """Return a value as metadata holds it: LangChain writes a date as ``{"date": "2024-01-01", "type": "date"}``."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping) and value.get("type") in ("date", "datetime"):
        return value.get(value["type"], value)
    return value


def _pattern(value: Any) -> Any:
    """Return a value of ``like`` as a pattern for ``$like``."""
    if not isinstance(value, str) or "%" in value:
        return value
    for special in ("\\", "_"):
        value = value.replace(special, "\\" + special)
    return f"%{value}%"
