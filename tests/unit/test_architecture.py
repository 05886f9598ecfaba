"""The page on the architecture is true: what it names exists where it says, and the rooms are those of the contract."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "requeuest_trio"
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
NAMED = set(re.findall(r"`([^`\n]+)`", PAGE))
FILES = sorted(name for name in NAMED if re.fullmatch(r"[\w./]+(/|\.(py|sql|toml))", name))
SOURCE = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*") if path.suffix in {".py", ".sql"})
ROW = re.compile(r"^\| (?:\d+ )?(.+?) \| (.+) \| (.+) \|$", re.MULTILINE)


def _rows(heading: str) -> list[tuple[str, str, str]]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [(row[1], row[2], row[3]) for row in ROW.finditer(section)][1:]


def _file(name: str) -> Path:
    return PACKAGE / name if (PACKAGE / name).exists() else ROOT / name


def _layers() -> list[list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    [rooms] = [
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["name"] == "The rooms of the house"
    ]
    return [layer.split(" | ") for layer in rooms]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_it_names_exists(name: str) -> None:
    assert _file(name).exists()


def test_each_other_name_is_defined_in_the_package() -> None:
    rooms = {room for layer in _layers() for room in layer}
    for name in NAMED - set(FILES) - rooms - {"make check", "make docs"}:
        for part in name.removesuffix("()").split("."):
            assert re.search(rf"(class|def|-- name:) {part}\b", SOURCE), name


def test_the_classes_of_a_step_are_in_its_files() -> None:
    steps = _rows("One request, ten steps")
    assert len(steps) == 10
    for step, files, text in steps:
        paths = [_file(name) for name in re.findall(r"`([\w/]+\.(?:py|sql))`", files + text)]
        source = "\n".join(path.read_text("utf-8") for path in paths)
        for name in re.findall(r"`([A-Z]\w+)", text):
            assert f"class {name}" in source, (step, name)


def test_the_rooms_are_those_of_the_import_contract() -> None:
    layers = _layers()
    described = [name.strip("`") for name, _, _ in _rows("The house")]
    assert sorted(described) == sorted(room for layer in layers for room in layer)
    depths = {room: depth for depth, layer in enumerate(layers) for room in layer}
    assert described == sorted(described, key=depths.__getitem__), "from the top down"


def test_an_arrow_between_rooms_is_an_import() -> None:
    arrows = re.findall(r"^    (\w+) --> (\w+)", PAGE, re.MULTILINE)
    for above, below in arrows:
        sources = [PACKAGE / f"{above}.py", *(PACKAGE / above).rglob("*.py")]
        text = "\n".join(path.read_text("utf-8") for path in sources if path.exists())
        assert f"\nfrom requeuest_trio.{below}" in text, (above, below)
    drawn = {room for arrow in arrows for room in arrow} | {"cli"}
    assert drawn == {room for layer in _layers() for room in layer}


@pytest.mark.parametrize("room", [path.parent for path in sorted(PACKAGE.glob("_*/__init__.py"))], ids=lambda p: p.name)
def test_a_room_says_what_each_of_its_files_is_for(room: Path) -> None:
    described = set(re.findall(r"`(\w+)(?:\.py|/)?`", (room / "__init__.py").read_text("utf-8")))
    files = {path.stem for path in room.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {name for name in files if not name.startswith("__")} <= described
