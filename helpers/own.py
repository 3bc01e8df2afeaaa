"""A method of one's own, tried in a notebook: a function (model, data, seed) -> model, applied to a whole ensemble.

What it makes is stored like everything else, named after the source of the function and of what that uses, and stands
in every table and figure beside the methods of `helpers/unlearning/`. A method that is to stay becomes a file there
(CONTRIBUTING.md).
"""

import ast
import inspect
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from types import CodeType, FunctionType, ModuleType

import cloudpickle
import torch
from torch.nn.modules.module import register_module_forward_hook

from helpers.data.task import Task
from helpers.files import StudyError, fingerprint, meaning
from helpers.models.cnn import CNN
from helpers.models.ensembles import Ensemble
from helpers.models.training import Recipe, Stopwatch, train
from helpers.unlearning import METHODS, TITLES, unlearned
from helpers.unlearning.method import Log, Method, UnlearningData, copy_of, setting

SOURCE = "this notebook"
TIMED = Recipe(min_passes=1, min_steps=20)  # training that tells how many samples a second this process trains on


@dataclass(frozen=True)
class OwnSettings:
    source: str = setting("", "fingerprint of the function's source")
    samples: str = setting("counted", 'samples that one model sees; or how they are found: "counted", "time"')


def own_method(
    function: Callable[[CNN, UnlearningData, int], CNN],
    task: Task,
    n: int,
    stored: bool = False,
    samples: float | str = "counted",
) -> Ensemble:
    """The ensemble that `function` makes out of the trained one; its name is that of the function.

    function: (model, data, seed) -> model; it gets a copy of a trained CNN, which it may change, `UnlearningData` and
    the model's seed, with which torch's random numbers start, and returns a CNN. It runs in other processes: what it
    uses must be defined in the notebook or imported.
    samples: what one model costs, in samples that go forward and backward through the classifier. "counted": every
    sample that a CNN sees when it is called, without gradients as a third; a number: so many; "time": as many as
    training sees in the time that the function takes.
    stored: True finds the models (StudyError if some are missing), False makes those that are missing.
    """
    name = getattr(function, "__name__", "")
    mine = name in METHODS and METHODS[name].source == SOURCE
    taken = name in TITLES and not mine or name == "null"  # the kind of a null distribution's rows
    if not name.isidentifier() or taken:
        why = f"the name {name} is taken" if taken else "this one has no name"
        raise StudyError(f"own_method takes a function made with def, with a name of its own: {why}.")
    counts = isinstance(samples, int | float) and not isinstance(samples, bool) and samples > 0
    if not counts and samples not in ("counted", "time"):
        raise StudyError(f'samples = {samples!r}: give a number above 0, "counted" or "time".')
    settings = OwnSettings(fingerprint(_source_of(function, set())), str(samples))
    METHODS[name] = Method(name, name.replace("_", " ").capitalize(), SOURCE, _runner(function), settings)
    TITLES[name] = METHODS[name].title
    return unlearned(name, task, n, stored)


def _runner(function: Callable) -> Callable:
    """`function` in the form that methods have."""

    def run(model: CNN, data: UnlearningData, settings: OwnSettings, seed: int, log: Log) -> CNN:
        def count(module, arguments, output):
            if isinstance(module, CNN):
                log.samples += len(output) * (1 if output.requires_grad else 1 / 3)

        counter = register_module_forward_hook(count)
        try:
            with Stopwatch() as watch, torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                found = function(copy_of(model), data, seed)
        except Exception as error:
            inside = [f for f in traceback.extract_tb(error.__traceback__) if f.name == function.__name__]
            line = inside[-1].lineno - function.__code__.co_firstlineno + 1 if inside else 1
            raise StudyError(
                f"{function.__name__} failed on model {seed}, in its line {line}: {type(error).__name__}: {error}"
            ) from error
        finally:
            counter.remove()
        if not isinstance(found, CNN):
            raise StudyError(f"{function.__name__} returned {type(found).__name__}: it must return a model (CNN).")
        if settings.samples == "time":
            log.samples = watch.seconds * _samples_per_second(data)
        elif settings.samples != "counted":
            log.samples = float(settings.samples)
        if not log.samples:
            raise StudyError(
                f"No model was called in {function.__name__}, so that its cost is unknown: give samples=NUMBER, what "
                'one model sees, or samples="time".'
            )
        return found.eval()

    return run


def _samples_per_second(data: UnlearningData) -> float:
    n = TIMED.batch_size * TIMED.min_steps
    with Stopwatch() as watch:
        train(data.retain_images[:n], data.retain_labels[:n], TIMED, 0)
    return TIMED.passes(n) * n / watch.seconds


def _source_of(function: Callable, known: set) -> list:
    """What the function does, and what it names: functions and classes of the same notebook or file by their source,
    imported ones by their names, objects of such classes by class and attributes, other values by their content."""
    known.add(function)
    if isinstance(function, type):  # of a class that was defined in a cell Python knows the methods' source alone
        inside = {name: value for name, value in vars(function).items() if not name.startswith("__") or callable(value)}
        written = [value for value in inside.values() if isinstance(value, FunctionType)]
        if is_dataclass(function):  # which makes methods that have no source
            written = [value for value in written if inspect.unwrap(value).__code__.co_filename != "<string>"]
        methods = [_source_of(value, known) for value in written]
        rest = {name: repr(value) for name, value in inside.items() if not callable(value)}
        return [function.__qualname__, [base.__qualname__ for base in function.__bases__], methods, rest]
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        raise StudyError(
            f"The source of {function.__name__} cannot be read: define it with def, in a cell or in a file."
        ) from None
    found = [meaning(tree)]
    for name, value in sorted(_names_in(function).items()):
        of_a_library = getattr(value, "__module__", "__main__") != function.__module__
        if isinstance(value, ModuleType):
            found.append([name, value.__name__])
        elif isinstance(value, FunctionType | type):
            mine = value not in known and not of_a_library
            found.append([name, _source_of(value, known) if mine else f"{value.__module__}.{value.__qualname__}"])
        elif not of_a_library and hasattr(value, "__dict__"):
            what = "" if type(value) in known else _source_of(type(value), known)
            found.append([name, what, {key: _content(each) for key, each in sorted(vars(value).items())}])
        else:
            found.append([name, _content(value)])
    return found


def _content(value) -> str:
    """Fingerprint of a value; of a set whatever the order in which Python goes through it."""
    value = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    return fingerprint(cloudpickle.dumps(value).hex())


def _names_in(function: Callable) -> dict[str, object]:
    """The globals and the variables of enclosing functions that a function uses."""
    used = {name: function.__globals__[name] for name in _used(function.__code__) if name in function.__globals__}
    return dict(inspect.getclosurevars(function).nonlocals) | used


def _used(code: CodeType) -> set[str]:
    """The names in a function's code, and in that of functions inside it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return {*code.co_names, *(name for each in inner for name in _used(each))}
