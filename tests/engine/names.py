"""Which names a statement leaves to PostgreSQL to look up along `search_path`, found by PostgreSQL's own parser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pglast import ast
from pglast.parser import parse_plpgsql_json, parse_sql

_UNDERSTOOD = {
    "A_ArrayExpr", "A_Const", "A_Expr", "A_Indirection", "A_Star", "Alias", "Boolean", "BoolExpr", "BooleanTest",
    "CaseExpr", "CaseWhen", "ClosePortalStmt", "CoalesceExpr", "ColumnRef", "CommonTableExpr", "DeallocateStmt",
    "DefElem", "DiscardStmt", "Float", "FuncCall", "IndexElem", "InferClause", "InsertStmt", "Integer", "JoinExpr",
    "LockingClause", "MinMaxExpr", "NullTest", "OnConflictClause", "ParamRef", "RangeFunction", "RangeSubselect",
    "RangeVar", "RawStmt", "ResTarget", "ReturningClause", "RowExpr", "SelectStmt", "SortBy",
    "SQLValueFunction", "String", "SubLink", "TransactionStmt", "TypeCast", "TypeName", "UnlistenStmt",
    "VariableSetStmt", "WindowDef", "WithClause",
}  # fmt: skip
"""What can stand in a statement, and looks nothing up but what is found here. All else has yet to be thought of."""


def looked_up(sql: str) -> list[str]:
    """What is looked up by the statements in a text: functions, operators, types, relations."""
    plain = re.sub(r"%\(\w+\)[sb]", "$1", sql).replace("%%", "%")
    return [found for statement in parse_sql(plain) for found in _in_statement(statement)] + _of_older_servers(plain)


def looked_up_by_functions(sql: str) -> dict[str, list[str]]:
    """The same of the functions that a text makes, by their names, as they run in a transaction of whomever."""
    text = sql.encode()
    found: dict[str, list[str]] = {}
    statements: Any = parse_sql(sql)
    for raw in statements:
        function = raw.stmt
        if _kind(function) == "CreateFunctionStmt":
            begin, length = raw.stmt_location, raw.stmt_len or None
            source = text[begin : None if length is None else begin + length].decode()
            found[function.funcname[-1].sval] = _in_function(function, source)
    return found


def _of_older_servers(sql: str) -> list[str]:
    """A type that the grammar itself knows only since PostgreSQL 17."""
    return re.findall(r"(?<!pg_catalog\.)\bjson\b", re.sub(r"--.*", "", sql))


def _in_function(function: Any, source: str) -> list[str]:
    if function.sql_body is not None:
        return []  # parsed when it was made, and kept so
    options = {option.defname: option.arg for option in function.options}
    if (path := options.get("set")) is not None and path.name == "search_path":
        return [] if [one.val.sval for one in path.args] == ["pg_catalog", "pg_temp"] else ["search_path"]
    if options["language"].sval != "plpgsql":
        return ["a body that is kept as text"]
    [parsed] = json.loads(parse_plpgsql_json(source))
    declared = re.search(r"\bDECLARE\b(.*?)\bBEGIN\b", source, re.DOTALL)
    types = re.findall(r"^\s*\w+\s+([\w.]+)", declared[1], re.MULTILINE) if declared else []
    return [one for one in types if "." not in one] + looked_up(";".join(_expressions(parsed)))


def _expressions(tree: Any) -> Iterator[str]:
    """Those of a PL/pgSQL function, as statements."""
    if isinstance(tree, dict):
        match tree.get("PLpgSQL_expr"):
            case {"query": query, "parseMode": 0}:
                yield query
            case {"query": query}:
                # An expression, or an assignment of one.
                yield f"SELECT {query.partition(':=')[2] or query}"
        for value in tree.values():
            yield from _expressions(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _expressions(value)


def _kind(node: Any) -> str:
    return type(node).__name__


def _nodes(tree: Any) -> Iterator[Any]:
    if isinstance(tree, ast.Node):
        yield tree
        for name in tree:
            yield from _nodes(getattr(tree, name))
    elif isinstance(tree, tuple):
        for one in tree:
            yield from _nodes(one)


def _in_statement(statement: Any) -> Iterator[str]:
    nodes = list(_nodes(statement))
    here = {node.ctename for node in nodes if _kind(node) == "CommonTableExpr"}
    for node in nodes:
        if _kind(node) not in _UNDERSTOOD:
            yield _kind(node)
        elif (name := _of_node(node, here)) is not None:
            yield name


def _of_node(node: Any, here: set[str]) -> str | None:
    """What one node looks up; `here` are the names that the statement itself has given."""
    match _kind(node):
        case "FuncCall":
            return _bare(node.funcname)
        case "A_Expr":
            return _bare(node.name)
        case "TypeName":
            return _bare(node.names)
        case "SubLink" if node.testexpr is not None:
            return "=" if node.operName is None else _bare(node.operName)
        case "SortBy" if node.useOp is not None:
            return _bare(node.useOp)
        case "IndexElem":
            return _bare(node.opclass or ()) or _bare(node.collation or ())
        case "CaseExpr" if node.arg is not None:
            return "="
        case "JoinExpr" if node.isNatural or node.usingClause:
            return "="
        case "RangeVar" if node.schemaname is None and node.relname not in here:
            return str(node.relname)
        case "TypeCast" if node.typeName.names[-1].sval.startswith("reg"):
            text = node.arg.val.sval if _kind(node.arg) == "A_Const" else ""
            return None if "." in text else f"what a {node.typeName.names[-1].sval} is made of"
        case _:
            return None


def _bare(names: tuple[Any, ...]) -> str | None:
    """A name that is not qualified. The grammar qualifies those that it gives itself, such as that of `extract`."""
    return str(names[0].sval) if len(names) == 1 else None
