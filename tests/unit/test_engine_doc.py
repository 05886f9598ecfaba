"""The description of the engine names every part of it, and nothing else: otherwise it would be of yesterday's."""

import pkgutil
import re

from requeuest_trio import _engine
from requeuest_trio._model.states import TRANSITIONS, JobState


def test_each_module_has_its_place_in_the_description() -> None:
    assert _engine.__doc__
    described = set(re.findall(r"`(\w+)\.py`", _engine.__doc__)) - {"_wiring"}
    assert described == {module.name for module in pkgutil.iter_modules(_engine.__path__)}


def test_each_state_that_a_job_can_have_is_described() -> None:
    assert _engine.__doc__
    states = _engine.__doc__.split("# The states of a job")[1].split("# What may fail")[0]
    reached = {transition.after for transition in TRANSITIONS}
    described = {name for line in re.findall(r"^`.*$", states, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)}
    assert reached <= {JobState(name) for name in described - {"held", "cancelled"}}
