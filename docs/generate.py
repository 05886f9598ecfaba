"""Writes the parts of the docs that the code knows better: the state diagram, the events, and the reference.

Run it after changing one of them; a test fails if somebody forgot::

    python docs/generate.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import logging
import re
import textwrap
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import accumulate, pairwise
from pathlib import Path

import requeuest_trio
import requeuest_trio.checks
import requeuest_trio.events
import requeuest_trio.masking
import requeuest_trio.testing
from requeuest_trio._model.retry import RetryPolicy, wait_after
from requeuest_trio._model.states import FINISHED, TRANSITIONS, JobState
from requeuest_trio._observe import events as kinds
from requeuest_trio._observe.event import Event

DOCS = Path(__file__).parent
_PART = re.compile(r"(<!-- generated: (\w+) [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
_QUOTED_ANNOTATION = re.compile(r"(: |-> )'([^']*)'")
_BLANK_LINES = re.compile(r"\n{3,}")
_GIVES = re.compile(r" -> \w+\[(\w+)\]$")
"""What a context manager or an iterator gives, which is what its user wants to know."""
_IS_MANAGER = re.compile(r" -> AbstractAsyncContextManager\[\w+\]$")
_IS_ITERATOR = re.compile(r" -> AsyncIterator\[\w+\]$")
_ENTRY = re.compile(r" {2,4}[\w.]+: ")
_NOT_FOR_USERS = {
    "Client.close",
    "Request.restored",
    "RetryPolicy.to_json",
    "RetryPolicy.from_json",
    "TrioConnection.wait",
    "TrioConnection.finish",
    "TrioConnection.abandon",
    "TrioConnection.reset",
    "TrioConnection.needs_reset",
    "TrioConnection.has_news",
    "TrioConnection.close_nowait",
    "TrioTransport.exchange",
    "TrioTransport.release",
    "TrioTransport.handle_async_request",
}
_MEANINGS = {
    "ALL": "Every channel, also those that appear later: for `open_requeuest`, and for `Client.clear`.",
    "Action": "What a `Receiver` can do with a request.",
}
_CONSTRUCTED = (
    requeuest_trio.Request,
    requeuest_trio.RetryPolicy,
    requeuest_trio.Channel,
    requeuest_trio.TrioTransport,
)
_WHILES = {
    "a minute": 60, "an hour": 3_600, "a day": 86_400, "three days": 3 * 86_400, "a week": 7 * 86_400,
    "30 days": 30 * 86_400,
}  # fmt: skip
_MODULES = (
    requeuest_trio,
    requeuest_trio.events,
    requeuest_trio.checks,
    requeuest_trio.masking,
    requeuest_trio.testing,
)
_KINDS = [kind for kind in vars(kinds).values() if inspect.isclass(kind) and issubclass(kind, Event) and kind != Event]
"""Of events, in the order in which they are defined."""
_PIPE = "\\|"
_END = "(the end)"
_BLANK_LINE = "\n\n"
_HEADING = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Example|Guarantee|Cancellation)(:{1,2})(?: (.*))?$")


def states() -> Iterator[str]:
    """A diagram of the transitions, and what each state in it means."""
    reached = [state for state in JobState if any(state is transition.after for transition in TRANSITIONS)]
    meanings = _attribute_docs(JobState)
    yield from ("```mermaid", "stateDiagram-v2")
    for transition in TRANSITIONS:
        yield f"    {transition.before or '[*]'} --> {transition.after}: {transition.cause.replace(';', ',')}"
    yield from (f"    {state} --> [*]" for state in reached if state in FINISHED)
    yield from ("```", "", "| state | what it means |", "|---|---|")
    yield from (f"| `{state}` | {meanings[state.name]} |" for state in reached)


def events() -> Iterator[str]:
    """The table of events."""
    yield from ("| logger | event | level | fields | what it means |", "|---|---|---|---|---|")
    for kind in _KINDS:
        if kind is requeuest_trio.events.Dropped:
            continue  # which is no matter of the log
        fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(kind))
        level = logging.getLevelName(kind.level)
        meaning = " ".join((inspect.getdoc(kind) or "").split())
        yield f"| `requeuest_trio.{kind.room}` | `{kind.name}` | {level} | {fields} | {meaning} |"


def retries() -> Iterator[str]:
    """When the default policy tries again, and how many attempts it makes in a while. Without the jitter."""
    policy = RetryPolicy(jitter=0)
    waits = [wait_after(policy, failed, None, lambda: 0.5) for failed in range(1, 1_000)]
    at = [0.0, *accumulate(waits)]
    steady = waits.index(policy.max_backoff) + 1
    yield from ("| attempt | after the one before | after the first |", "|---|---|---|")
    yield from (f"| {n + 1} | {_span(waits[n - 1])} | {_span(at[n])} |" for n in range(1, steady))
    yield f"| {steady + 1} and each later one | {_span(policy.max_backoff)} | |"
    yield from ("", "| to be tried for about | choose `max_attempts=` |", "|---|---|")
    for name, seconds in _WHILES.items():
        yield f"| {name} | {sum(moment <= seconds for moment in at)} |"


def _span(seconds: float) -> str:
    hours, minutes, rest = int(seconds // 3600), int(seconds % 3600 // 60), int(seconds % 60)
    parts = [f"{number} {unit}" for number, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if number]
    return " ".join(parts)


def names() -> Iterator[str]:
    """Every public name with its docstring."""
    for module in _MODULES:
        yield from ("", f"## {module.__name__}")
        if module is not requeuest_trio:
            yield from _docstring(module)
        if module is requeuest_trio.events:
            yield from _fields_of_events()
            continue
        for name in module.__all__:
            yield from _described(name, getattr(module, name))


def _fields_of_events() -> Iterator[str]:
    yield from ("", "What each means stands in [the table of what is logged](operating.md#logging).", "")
    yield from ("| class | fields |", "|---|---|")
    for kind in _KINDS:
        fields = ", ".join(f"`{field.name}: {field.type}`" for field in dataclasses.fields(kind))
        yield f"| `{kind.__name__}` | {fields.replace('|', _PIPE)} |"


def _described(name: str, value: object) -> Iterator[str]:
    yield from ("", f"### {name}")
    if inspect.isclass(value):
        if value in _CONSTRUCTED:
            yield from ("", f"`{_signature(name, value.__init__)}`")
        yield from _docstring(value)
        yield from _attributes(value)
        for method_name, method in vars(value).items():
            if f"{name}.{method_name}" in _NOT_FOR_USERS:
                continue
            function = method.__func__ if isinstance(method, classmethod) else method
            if not method_name.startswith("_") and inspect.isfunction(function) and inspect.getdoc(function):
                yield from ("", f"#### {name}.{method_name}", "", f"`{_signature(method_name, function)}`")
                yield from _docstring(function)
    elif inspect.isfunction(value):
        yield from ("", f"`{_signature(name, value)}`")
        yield from _docstring(value)
    else:
        yield from ("", f"`{str(value).replace('requeuest_trio.testing.', '')}`", "", _MEANINGS.get(name, ""))


def _signature(name: str, function: Callable[..., object]) -> str:
    signature = inspect.signature(function)
    shown = [parameter.replace(annotation=parameter.annotation) for parameter in signature.parameters.values()]
    if shown and shown[0].name in {"self", "cls"}:
        shown = shown[1:]
    prefix = "async " if inspect.iscoroutinefunction(function) else ""
    # Annotations are strings, because they are evaluated late; here they are meant as they stand.
    text = name + _QUOTED_ANNOTATION.sub(r"\1\2", str(signature.replace(parameters=shown)))
    if inspect.isasyncgenfunction(inspect.unwrap(function)) or _IS_MANAGER.search(text):
        return "async with " + _GIVES.sub(r" as \1", text)
    if _IS_ITERATOR.search(text):
        return _GIVES.sub("", f"async for {_GIVES.search(text)[1]} in {text}")
    return prefix + text


def _attributes(owner: type) -> Iterator[str]:
    docs = {name: text for name, text in _attribute_docs(owner).items() if not name.startswith("_")}
    fields = (
        {field.name: field.default for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
    )
    defaults = {
        name: f"`{default!r}`"
        for name, default in fields.items()
        if default is not dataclasses.MISSING and not callable(default)
    }
    if issubclass(owner, Enum):
        defaults = {member.name: f"`{member.value!r}`" for member in owner}
        docs = dict.fromkeys(defaults, "") | docs
    if docs and defaults:
        heading = "value" if issubclass(owner, Enum) else "default"
        yield from ("", f"| name | {heading} | |", "|---|---|---|")
        yield from (f"| `{name}` | {defaults.get(name, '')} | {text} |" for name, text in docs.items())
    elif docs:
        yield from ("", "| name | |", "|---|---|")
        yield from (f"| `{name}` | {text} |" for name, text in docs.items())


def _attribute_docs(owner: type) -> dict[str, str]:
    """The strings below the attributes of a class. One string may stand for several attributes in a row."""
    try:
        [class_node] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, TypeError, ValueError):
        return {}
    docs: dict[str, str] = {}
    undocumented: list[str] = []
    for node in getattr(class_node, "body", [])[1:]:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            undocumented.append(ast.unparse(target))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text = " ".join(node.value.value.split())
            docs.update(dict.fromkeys(undocumented, ""))
            docs[undocumented[-1]] = text
            undocumented = []
        else:
            break
    return docs


def _docstring(value: object) -> Iterator[str]:
    """A docstring as Markdown: sections as bold words, what they list as lists, examples as code."""
    section = ""
    is_code = False
    yield ""
    for before, line in pairwise(["", *(inspect.getdoc(value) or "").splitlines(), _END]):
        heading = _HEADING.match(line)
        is_inside = line.startswith("  ") or not line
        if is_code and (heading or not is_inside):
            yield from ("```", "")
            is_code = False
        if heading:
            section = heading[1]
            yield from ("", f"**{section}**" + (f": {heading[3]}" if heading[3] else ""))
            if not heading[3]:
                yield ""
        elif line is _END:
            return
        elif not is_inside:
            section = ""
            yield line
        elif section == "Example" and line:
            if not is_code:
                yield "```pycon" if line.strip().startswith(">>>") else "```python"
                is_code = True
            elif not before:
                yield ""
            yield line.removeprefix("    ")
        elif section and _ENTRY.match(line):
            name, colon, text = line.strip().partition(": ")
            yield f"- `{name}`: {text}" if colon else line.strip()
        elif not is_code:
            yield f"  {line.strip()}" if section in {"Args", "Raises", "Attributes"} else line.strip()


def generated(text: str) -> str:
    """A page with its generated parts as they should be."""
    makers = {"states": states, "events": events, "names": names, "retries": retries}

    def fill(match: re.Match[str]) -> str:
        made = "\n".join(line.rstrip() for line in makers[match[2]]())
        return f"{match[1]}\n{_BLANK_LINES.sub(_BLANK_LINE, made).strip()}\n\n{match[3]}"

    return _PART.sub(fill, text)


def main() -> None:
    """Rewrite the pages that have generated parts."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text("utf-8")
        if generated(text) != text:
            page.write_text(generated(text), "utf-8")
            print("rewritten:", page.name)


if __name__ == "__main__":
    main()
