"""Python programs for tests, each in a process of its own.

They are forked from a server that has imported the large libraries, but nothing of this repository: a program then
starts in a tenth of a second, where a new interpreter needs five to eight. Where there is no fork server (Windows) it
is a new interpreter.
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import types
from pathlib import Path

LIBRARIES = [
    "torch",
    "pandas",
    "optuna",
    "scipy.stats",
    "sklearn.linear_model",
    "matplotlib.figure",
    "seaborn",
    "papermill",
]
LIBRARIES += ["torch.utils.data", "joblib", "IPython.display", "sqlalchemy", "PIL.Image"]
FORKED = "forkserver" in multiprocessing.get_all_start_methods()
if FORKED:
    CONTEXT = multiprocessing.get_context("forkserver")
    CONTEXT.set_forkserver_preload(LIBRARIES)


class Program:
    """Runs `code` in `folder`, whose helpers it imports, with this process's environment and `env`. As
    subprocess.Popen, but stdout and stderr are the texts so far."""

    def __init__(self, folder: Path, code: str, env: dict[str, str] | None = None):
        self._place = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._place.name) / name for name in ("stdout", "stderr")]
        env, self.returncode = {**os.environ, **(env or {})}, None
        if FORKED:
            self._process = CONTEXT.Process(target=_run, args=(str(folder), code, env, *map(str, self._outputs)))
            self._process.start()
        else:
            streams = dict(zip(("stdout", "stderr"), (path.open("wb") for path in self._outputs), strict=True))
            self._process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=env, **streams)
        self.pid = self._process.pid

    def wait(self, timeout: float = 300) -> int:
        if FORKED:
            self._process.join(timeout)
            self.returncode = self._process.exitcode
            if self.returncode is None:
                self._process.kill()
                raise TimeoutError(f"still running after {timeout} s: {self.stderr[-1000:]}")
        else:
            self.returncode = self._process.wait(timeout)
        return self.returncode

    def poll(self) -> int | None:
        return self._process.exitcode if FORKED else self._process.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()

    @property
    def stdout(self) -> str:
        return self._outputs[0].read_text(encoding="utf-8", errors="replace") if self._outputs[0].exists() else ""

    @property
    def stderr(self) -> str:
        return self._outputs[1].read_text(encoding="utf-8", errors="replace") if self._outputs[1].exists() else ""


def run_python(folder: Path, code: str, timeout: float = 300, env: dict[str, str] | None = None) -> Program:
    """As `Program`, to its end."""
    program = Program(folder, code, env)
    program.wait(timeout)
    return program


def command(*arguments: str) -> str:
    """The code of `python -m helpers ARGUMENTS`."""
    return f"import runpy, sys\nsys.argv[1:] = {list(arguments)!r}\nrunpy.run_module('helpers', run_name='__main__')"


def _run(folder: str, code: str, env: dict[str, str], stdout: str, stderr: str) -> None:
    """What a forked process does."""
    for number, path in ((1, stdout), (2, stderr)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv, sys.path[0:0] = ["-c"], [folder]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        exec(compile(code, "<string>", "exec"), vars(main))
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
