"""What contributors run: the targets of make, and the hooks before a commit."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def test_make_help_tells_what_every_target_does() -> None:
    told = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [targets] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert re.findall(r"^make (\w+) +\S", told, re.MULTILINE) == targets.split()


def test_hooks_fetch_nothing_and_run_what_make_check_runs() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert re.findall(r"^ *- repo: (.*)$", hooks, re.MULTILINE) == ["local"]
    entries = re.findall(r"^ *entry: (\S+)", hooks, re.MULTILINE)
    [check] = re.findall(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert set(entries) == {f".venv/bin/{tool}" for tool in re.findall(r"\$\(BIN\)/([\w-]+)", check)}
