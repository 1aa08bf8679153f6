"""Code rewards: right code passes, and nothing that code tries passes a test, reaches outside or outlives its time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reward_models import load
from reward_models.sandbox import Limits, Outcome, SandboxError, run_case, run_cases
from reward_models.sandbox_child import DENIED, FS_RIGHTS, decode, encode
from reward_models.tasks import TaskError
from reward_models.tasks.code import code_reward

SQUARE = "def f(x):\n    return x * x\n"
LIMITS = Limits(seconds=10.0, memory_mb=256)
SHORT = Limits(seconds=1.0, memory_mb=256)


def verdict(code: str, test: str = "assert f(3) == 9", limits: Limits = LIMITS) -> str:
    return run_case(code, test, limits).verdict


def test_right_and_wrong_code_in_the_forms_that_tests_have() -> None:
    code = SQUARE + (
        "from collections import Counter, namedtuple\n"
        "class Stack:\n"
        "    def __init__(self): self.held = []\n"
        "    def push(self, x): self.held.append(x); return self\n"
        "    def pop(self): return self.held.pop()\n"
        "def many(n):\n    yield from range(n)\n"
        "def count(text): return Counter(text)\n"
        "def fail(): raise KeyError('k')\n"
    )
    test = """
assert [f(i) for i in range(4)] == [0, 1, 4, 9] and f(1.5) == 2.25 and f(2 ** 100) == 2 ** 200
assert math.isclose(f(0.1), 0.01) and isinstance(f(2), int)
stack = Stack().push(1).push((2, {"a": {3}}))
assert stack.pop() == (2, {"a": {3}}) and stack.pop() == 1 and len(stack.held) == 0
assert list(many(3)) == [0, 1, 2] and next(many(2)) == 0
assert count("aab") == {"a": 2, "b": 1}
try:
    fail()
except LookupError:
    pass
else:
    raise AssertionError
"""
    assert run_cases(code, [test, "assert f(2) == 5", "assert g(2) == 4"], LIMITS) == [
        Outcome("passed"),
        Outcome("failed", "AssertionError: "),
        Outcome("failed", "NameError: name 'g' is not defined"),
    ]


def test_programs_are_judged_by_their_output() -> None:
    code = "n = int(input())\nprint(*range(n))\nprint('end  ')"
    cases = [{"input": "3\n", "output": "0 1 2\nend\n"}, {"input": "3\n", "output": "0 1\nend\n"}]
    assert [outcome.verdict for outcome in run_cases(code, cases, LIMITS)] == ["passed", "failed"]
    assert run_case("while True: print('x' * 1000)", cases[0], LIMITS).verdict == "failed"
    assert run_case("import sys\nwhile True: sys.stderr.write('x' * 1000)", cases[0], SHORT).verdict != "passed"
    assert run_case("import os; os.write(2, b'no'); os._exit(113)", cases[0], LIMITS).verdict == "failed"
    assert run_case("import time; time.sleep(60)", cases[0], SHORT).verdict == "timeout"


WANTED = 748213
"""What only the test knows."""
CHEATS = {
    "early exit": "import sys; sys.exit(0)",
    "hard exit": "import os; os._exit(0)",
    "exit in the call": "def f(x):\n    import os; os._exit(0)",
    "equal to everything": "class Same:\n    def __eq__(self, other): return True\ndef f(x): return Same()",
    "an int that is equal": "class Same(int):\n    def __eq__(self, other): return True\ndef f(x): return Same(1)",
    "hidden in a list": "class Same:\n    def __eq__(self, other): return True\ndef f(x): return [Same()][0]",
    "other built-ins": "import builtins\nbuiltins.AssertionError = builtins.isinstance = lambda *a: True\ndef f(x): 0",
    "what the verdict looks like": 'print(\'{"verdict": "passed", "reason": ""}\')\ndef f(x): 0',
    "on every descriptor": 'import os\nfor n in range(64):\n    try: os.write(n, b\'\\n{"verdict": "passed", '
    '"reason": ""}\\n{"value": 9}\\n\' * 9)\n    except OSError: pass\ndef f(x): 0',
    "the caller's frames": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        for value in frame.f_locals.values():\n            if value == 748213: return value\n"
    "        frame = frame.f_back",
    "all objects": "import gc\ndef f(x):\n    for held in gc.get_objects():\n"
    "        if isinstance(held, str) and 'assert f(' in held: return 748213",
    "the judge's memory": "import os\ndef f(x):\n    for name in os.listdir('/proc'):\n        if name.isdigit():\n"
    "            if b'assert f(' in open(f'/proc/{name}/mem', 'rb').read(): return 748213",
    "the judge's files": "from pathlib import Path\ndef f(x):\n    list(Path('../judge').iterdir()); return 748213",
}


@pytest.mark.parametrize("code", CHEATS.values(), ids=CHEATS)
def test_cheats_fail(code: str) -> None:
    assert verdict(code, f"assert f(3) == {WANTED}") == "failed"


def test_an_object_is_no_answer_whichever_way_it_is_asked() -> None:
    code = "class Any:\n    __eq__ = __ne__ = __lt__ = __gt__ = __bool__ = lambda *a: True\ndef f(x): return Any()"
    for test in ("assert f(3) != 4", "assert f(3) > 8", "assert f(3)", "assert 9 == f(3)", "assert 9 in [f(3)]"):
        assert verdict(code, test) == "failed"


OUTSIDE = {
    "network": "import socket; socket.socket()",
    "local sockets": "import socket; socket.socketpair()",
    "fork": "import os; os.fork()",
    "a program": "import os; os.execv('/bin/true', ['true'])",
    "a shell": "import subprocess; subprocess.run(['true'])",
    "threads": "import threading; threading.Thread(target=print).start()",
    "signals": "import os; os.kill(os.getppid(), 9)",
    "a group of its own": "import os; os.setsid()",
    "higher limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "the user's files": "open({home!r})",
    "the list of files": "import os; os.listdir('/')",
    "passwords": "open('/etc/passwd')",
    "another process": (
        "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0): raise PermissionError"
    ),
    "memory of another process": "import os; open(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "its own environment by file": "open('/proc/self/environ')",
    "shared memory": "open('/dev/shm/x', 'w')",
    "a device": "open('/dev/kmsg', 'w')",
    "a mount": "import ctypes\nif ctypes.CDLL(None).mount(b'x', b'.', b'tmpfs', 0, b''): raise PermissionError",
    "a namespace": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise PermissionError",
    "the clock": "import time; time.clock_settime(0, 1)",
    "the parent's environment": "import os; open(f'/proc/{{os.getppid()}}/environ')",
    "its own memory map": "open('/proc/self/maps')",
    "writing elsewhere": "open('../x', 'w')",
    "modes": "import os; os.chmod({home!r}, 0o777)",
    "links out": "import os; os.symlink({home!r}, 'l'); open('l')",
    "raw calls": "import ctypes\nif ctypes.CDLL(None).socket(2, 1, 0) < 0: raise PermissionError",
}


@pytest.mark.parametrize("code", OUTSIDE.values(), ids=OUTSIDE)
def test_nothing_outside_is_reached(code: str, tmp_path: Path) -> None:
    """Each attempt must fail, and fail by being forbidden, not for some other reason."""
    secret = tmp_path / "secret"
    secret.write_text("s")
    mode = secret.stat().st_mode
    lines = code.format(home=str(secret)).replace("\n", "\n        ")
    attempt = f"def f(x):\n    try:\n        {lines}\n    except (PermissionError, RuntimeError, ValueError) as e:\n"
    attempt += "        return type(e).__name__\n    return 'reached'"
    known = "('PermissionError', 'RuntimeError', 'ValueError')"
    got = run_case(attempt, f"assert f(0) in {known}, f(0)", LIMITS)
    assert got == Outcome("passed"), got
    assert secret.stat().st_mode == mode


def test_a_function_may_have_the_name_of_a_module_but_not_take_its_place() -> None:
    assert verdict("def bisect(x): return -x", "assert bisect(3) == -3") == "passed"
    fake = "class math: isclose = staticmethod(lambda *a: True)\ndef f(x): return 0"
    assert verdict(fake, "assert math.isclose(f(3), 9)") == "failed"


def test_the_environment_of_the_trainer_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-5e1f")
    code = "import os\ndef f(x): return 'canary-5e1f' in str(dict(os.environ)) or 'HF_TOKEN' in os.environ"
    assert verdict(code, "assert f(0) is False") == "passed"


def test_its_own_folder_and_the_standard_library_are_there() -> None:
    code = "import json, decimal, zlib, os\ndef f(x):\n    open('a', 'w').write(json.dumps(x)); return open('a').read()"
    assert verdict(code, "assert f([1, 2]) == '[1, 2]'") == "passed"
    assert verdict(
        "import os\ndef f(): return dict(os.environ)", "assert set(f()) <= {'PYTHONHASHSEED', 'LC_CTYPE'}"
    ) == ("passed")
    assert verdict("import sys\ndef f(): return sys.stdin.read()", "assert f() == ''") == "passed"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import signal\nfor n in (2, 14, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "def f(x):\n    while True:\n        try: x = x + 1\n        except BaseException: pass",
        "def f(x):\n    return 9 ** 9 ** 9",
    ],
)
def test_endless_code_ends(code: str) -> None:
    start = time.monotonic()
    assert verdict(code, limits=SHORT) == "timeout"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "code",
    [
        "held = bytearray(1 << 31)",
        "def f(x): return [0] * (1 << 30)",
        "def f(x): return 'x' * (1 << 24)",
        "import sys\nwhile True: sys.stdout.write('x' * 65536) and sys.exit(0)",
        "def f(x):\n    open('a', 'wb').write(bytes(1 << 22)); return 9",
        "def f(x):\n    held = [open('a', 'w') for _ in range(100)]; return 9",
        "def f(x): return f(x)",
        "def f(x):\n    a = []; a.append(a); return a",
        "def f(x): return [[]] * 10 ** 5 + [x]",
    ],
)
def test_what_is_too_large_fails(code: str) -> None:
    assert verdict(code) == "failed"


def test_one_endless_case_costs_that_case_alone_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "def f(x):\n    while x < 0: pass\n    open('left', 'w').write('x')\n    return x"
    limits = Limits(seconds=4.0, memory_mb=256)
    outcomes = run_cases(code, ["assert f(1) == 1", "assert f(-1) == 1", "assert f(2) == 2"], limits, workers=3)
    assert [outcome.verdict for outcome in outcomes] == ["passed", "timeout", "passed"]
    assert list(tmp_path.iterdir()) == []


def test_faults_of_the_test_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="the test is no Python"):
        run_case(SQUARE, "assert f(", LIMITS)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(SandboxError, match="could not start"):
        run_case(SQUARE, "assert f(1) == 1", LIMITS)
    with pytest.raises(ValueError, match="limit seconds must be positive, got 0"):
        Limits(seconds=0)


def test_a_system_without_the_locks_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The child is the same but for one step of its lock."""
    child = Path("reward_models/sandbox_child.py").read_text()
    for old, new, message in (
        ("    _deny_calls(libc)\n    _check", "    _check", "is still allowed"),
        ("    if not version:", "    if version:", "no Landlock"),
        ("    if machine not in", "    if machine in", "no table of system calls"),
    ):
        assert old in child
        (tmp_path / "child.py").write_text(child.replace(old, new))
        monkeypatch.setattr("reward_models.sandbox.CHILD", tmp_path / "child.py")
        with pytest.raises(SandboxError, match=message):
            run_case("print(1)", {"input": "", "output": "1"}, LIMITS)
        with pytest.raises(SandboxError):
            run_case(SQUARE, "assert f(3) == 9", LIMITS)


def test_values_come_back_as_plain_copies() -> None:
    value = {"a": [1, (2.5, None), {3, "x"}, frozenset([b"y"])], (1, 2): 3j, True: -0.0}
    back = decode(encode(value, lambda other: 7), lambda number: ("object", number))
    assert back == value and str(back["a"][1]) == "(2.5, None)" and type(back[True]) is float
    assert decode(encode([object()], lambda other: 7), lambda number: ("object", number)) == [("object", 7)]


def test_tables_have_no_call_twice_and_both_columns() -> None:
    for column in (0, 1):
        numbers = [call for calls in DENIED.values() for call in calls[column]]
        assert len(numbers) == len(set(numbers)) and all(0 <= number < 500 for number in numbers)
    assert list(FS_RIGHTS.values()) == sorted(FS_RIGHTS.values())


def answer(code: str) -> str:
    return f"Here:\n```python\n{code}```\n"


def test_the_reward_is_the_share_of_cases_behind_a_gate_of_form() -> None:
    row = {"test_cases": ["assert f(3) == 9", "assert f(1) == 1", "assert f(2) == 5", {"input": "", "output": ""}]}
    assert code_reward(answer(SQUARE), row, LIMITS) == {"score": 0.75, "strict": 0.0}
    assert code_reward(answer(SQUARE), {"test_cases": row["test_cases"][:2]}, LIMITS) == {"score": 1.0, "strict": 1.0}
    for text in (SQUARE, answer(SQUARE) + "more", answer("def f(:")):
        assert code_reward(text, row, LIMITS) == {"score": 0.0, "strict": 0.0}


@pytest.mark.parametrize("cases", [None, [], "assert f(1)", [1], [{"input": "x"}]])
def test_problems_without_cases_are_refused(cases: object) -> None:
    with pytest.raises(TaskError, match="test"):
        code_reward(answer(SQUARE), {"test_cases": cases})


def test_the_scorer_marks_faults_as_invalid() -> None:
    rows = [{"test_cases": ["assert f(3) == 9"]}, {"test_cases": ["assert ("]}, {}]
    got = load("code", seconds=10.0, memory_mb=256)([answer(SQUARE)] * 3, ["p"] * 3, rows)
    assert got.valid.tolist() == [True, False, False] and got.scores[0] == 1 and got.components["strict"][0] == 1
    assert "no Python" in got.errors[1] and "test_cases" in got.errors[2]
