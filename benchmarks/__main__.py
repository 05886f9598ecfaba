"""The command: `make bench`, or `python -m benchmarks`."""

import argparse
import importlib
import signal
import sys
from pathlib import Path

from benchmarks.cases import Case, all_cases, selected
from benchmarks.conductor import RESULTS, File, Run
from benchmarks.contestants import load
from benchmarks.process import ProgramFailedError
from benchmarks.report import report
from benchmarks.setting import open_setting
from benchmarks.sizes import FULL, QUICK


def main() -> None:
    """Measure what was asked for, print it, and write it into a file."""
    arguments = _arguments()
    sizes = QUICK if arguments.quick else FULL
    cases = all_cases(sizes)
    if arguments.list:
        sys.stdout.writelines(f"{case.name:32} {case.title}\n" for case in cases)
        return
    if arguments.names:
        try:
            cases = selected(cases, arguments.names, alone=arguments.alone)
        except ValueError as error:
            sys.exit(str(error))
    _require_packages(cases)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us, everything is to end
    with open_setting(sizes) as setting:
        run = Run(cases, setting, repetitions=arguments.repetitions, is_quick=arguments.quick)
        file = File(arguments.results, is_quick=arguments.quick)
        for line in run.measure():
            file.write(run.results())
            print(line, file=sys.stderr, flush=True)
        file.complete()
        print(f"{report(run.results())}\n\nWritten to {file.path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="what to measure, such as drain or spawn-many-requeuest; all, if none")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument("--alone", action="store_true", help="without what the named are divided by")
    parser.add_argument("--quick", action="store_true", help="with few jobs, just to see that it works")
    parser.add_argument("--repetitions", type=int, help="how often; 3, or 1 if quick")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the directory for the file")
    arguments = parser.parse_args()
    if arguments.repetitions is None:
        arguments.repetitions = 1 if arguments.quick else 3
    if arguments.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    return arguments


def _require_packages(cases: list[Case]) -> None:
    """Find out now, not after an hour, that something is not there."""
    try:
        for contestant in {case.contestant for case in cases if case.contestant}:
            load(contestant)
        for module in {module for case in cases for module in case.modules}:
            importlib.import_module(module)
    except ImportError as error:
        sys.exit(f"{error}. `make bench` installs everything; or name what to measure, --alone")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ProgramFailedError, TimeoutError) as error:
        sys.exit(f"{error}. What had been measured is in a .tmp file beside the results")
