"""What runs inside the sandbox: a script of the standard library alone, started by `reward_models.sandbox`.

The process locks itself up for good, and then plays one of three parts. The *judge* runs a test, which is trusted; the
*candidate* runs what a model wrote, and answers the judge's questions about it; a *program* reads its input and writes
its output. Judge and candidate share nothing but two pipes: what the candidate sends is a value or an exception, never
a verdict, and what a test expects never enters its process.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import errno
import importlib
import json
import os
import platform
import struct
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, NoReturn

READY = b"ready\n"
"""What a process that is locked up says before it reads any code."""
LONGEST_MESSAGE = 1 << 20
"""Bytes of an answer of the candidate."""
DIGITS, SHOWN = 100_000, 300
"""Of the largest number that is sent; characters of a reason."""

# Linux: asm/unistd.h, linux/landlock.h, linux/seccomp.h, linux/filter.h, linux/audit.h, linux/prctl.h.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> (its number in the kernel's records, column of `DENIED`)."""
DENIED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "network": (
        (41, 42, 43, 44, 45, 46, 47, 49, 50, 53, 288, 299, 307),
        (198, 199, 200, 201, 202, 203, 206, 207, 211, 212, 242, 243, 269),
    ),
    "new processes and threads": ((56, 57, 58, 59, 322, 435), (220, 221, 281, 435)),
    "leaving the process group": ((109, 112), (154, 157)),
    "signals": ((62, 129, 200, 234, 297, 424, 434, 438), (129, 138, 130, 131, 240, 424, 434, 438)),
    "other processes' memory": ((101, 310, 311, 312, 440), (117, 270, 271, 272, 440)),
    "limits and priorities": ((141, 144, 157, 160, 203, 302, 314), (140, 119, 167, 164, 122, 261, 274)),
    "namespaces and mounts": (
        (155, 161, 165, 166, 272, 308, 428, 429, 430, 431, 432, 433, 442),
        (41, 51, 40, 39, 97, 268, 428, 429, 430, 431, 432, 433, 442),
    ),
    "owners, modes and times of files": (
        (90, 91, 92, 93, 94, 132, 133, 188, 189, 190, 197, 198, 199, 235, 259, 260, 261, 268, 280, 452),
        (5, 6, 7, 14, 15, 16, 33, 52, 53, 54, 55, 88, 452),
    ),
    "shared memory and queues": ((29, 30, 64, 68, 240), (194, 196, 190, 186, 180)),
    "the kernel": (
        (159, 164, 167, 169, 170, 172, 173, 175, 176, 227, 246, 248, 249, 250, 298, 313, 321, 323, 425, 426, 427),
        (171, 170, 224, 142, 161, 105, 106, 112, 104, 217, 218, 219, 241, 273, 280, 282, 425, 426, 427),
    ),
}
"""What for -> system calls that fail with "not permitted", on x86_64 and on aarch64. Landlock says nothing about modes
and owners of files, so they stand here."""
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SIGKILL = 1, 38, 22, 2, 9
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Version of Landlock -> how many rights over files it knows; 16 from version 5 on."""
READ_FILE, LIST = 1 << 0 | 1 << 2, 1 << 3
"""Execute and read a file; list a folder."""
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")


class LockError(RuntimeError):
    """The process could not be locked up."""


def lock(limits: dict[str, int], *, confine_files: bool = True) -> None:
    """Give up everything but computing, reading the standard library, and writing into the current folder.

    Args:
        limits: name of a resource, such as "CPU" -> limit.
        confine_files: whether files are confined too, which needs Landlock.

    Raises: LockError: the system lacks a part of it, or what should be forbidden still works.
    """
    import resource  # not on every system, and the scorers beside this one must still load there

    libc = ctypes.CDLL(None, use_errno=True)
    for name, limit in {"CORE": 0, **limits}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    for option, value in ((PR_SET_PDEATHSIG, SIGKILL), (PR_SET_NO_NEW_PRIVS, 1)):
        _checked(libc.prctl(option, value, 0, 0, 0), "prctl")
    if confine_files:
        _confine_files(libc)
    _deny_calls(libc)
    _check_locked()


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise LockError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def landlock_version() -> int:
    """Version of the kernel's Landlock, 0 where there is none."""
    return max(0, ctypes.CDLL(None).syscall(LANDLOCK_CREATE, None, 0, 1))


def _confine_files(libc: ctypes.CDLL) -> None:
    version = landlock_version()
    if not version:
        raise LockError("this kernel has no Landlock, so files cannot be confined")
    rights = (1 << FS_RIGHTS.get(version, 16)) - 1
    # Fields came with versions: rights over files; over ports, which need no rule here; signals and abstract sockets.
    fields = struct.pack("QQQ", rights, 0, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _checked(libc.syscall(LANDLOCK_CREATE, fields, len(fields), 0), "landlock")
    standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    for path, allowed in [*((path, READ_FILE | LIST) for path in (*standard, *LIBRARIES)), (os.getcwd(), rights)]:
        if os.path.exists(path):
            below = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", allowed if os.path.isdir(path) else READ_FILE, below)
            _checked(libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock of {path}")
            os.close(below)
    _checked(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    os.close(ruleset)


def _deny_calls(libc: ctypes.CDLL) -> None:
    """A filter of system calls: an unknown architecture kills, a denied call fails with EPERM."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise LockError(f"no table of system calls for {machine}")
    number, column = ARCHITECTURES[machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    program = [(load, 0, 0, 4), (equal, 1, 0, number), (give, 0, 0, kill), (load, 0, 0, 0)]
    # Numbers from 2^30 on are those of another calling convention, under which the table would not hold.
    program += [(at_least, 0, 1, 1 << 30), (give, 0, 0, kill)]
    for columns in DENIED.values():
        program += [line for call in columns[column] for line in ((equal, 0, 1, call), (give, 0, 0, refuse))]
    packed = b"".join(struct.pack("HBBI", *line) for line in [*program, (give, 0, 0, allow)])
    buffer = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("HxxxxxxP", len(program) + 1, ctypes.addressof(buffer))
    _checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0), "seccomp")


def _check_locked() -> None:
    """Try what must fail: a table of wrong numbers would show here."""
    import socket

    attempts: dict[str, Callable[[], Any]] = {
        "socket": lambda: socket.socket(),
        "fork": lambda: os.fork() or os._exit(0),
        "kill": lambda: os.kill(os.getpid(), 0),
        "chmod": lambda: os.chmod(".", 0o700),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            continue
        raise LockError(f"{name} is still allowed")


def encode(value: Any, number_of: Callable[[Any], int]) -> Any:
    """A value as JSON: plain data in full, anything else as the number of an object that stays where it is."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, dict):
        return ["dict", [[encode(key, number_of), encode(held, number_of)] for key, held in value.items()]]
    for name, group in GROUPS.items():
        if isinstance(value, group):
            return [name, [encode(held, number_of) for held in value]]
    return ["object", number_of(value)]


def decode(data: Any, object_of: Callable[[int], Any]) -> Any:
    """The value of `encode`'s JSON; plain data are of exactly the built-in types."""
    if not isinstance(data, list):
        return data
    name, *rest = data
    if name in GROUPS:
        return GROUPS[name](decode(held, object_of) for held in rest[0])
    if name == "dict":
        return {decode(key, object_of): decode(held, object_of) for key, held in rest[0]}
    singles: dict[str, Callable[..., Any]] = {"bytes": bytes.fromhex, "complex": complex, "object": object_of}
    return singles[name](*rest)


GROUPS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def candidate(requests: BinaryIO, replies: BinaryIO) -> None:
    """Run the code that comes first, then answer questions about what it defines, one line of JSON each."""
    names = _main()
    objects: list[Any] = []

    def number_of(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    def reply(answer: Callable[[], Any]) -> None:
        try:
            line = json.dumps({"value": encode(answer(), number_of)})
        except BaseException as error:
            line = json.dumps({"raised": _built_in_name(error), "message": str(error)[:SHOWN]})
        replies.write(line.encode() + b"\n")
        replies.flush()

    replies.write(READY)
    replies.flush()
    code = json.loads(requests.readline())
    reply(lambda: exec(compile(code, "<candidate>", "exec"), names))
    for request in requests:
        name, *arguments = decode(json.loads(request), objects.__getitem__)
        reply(partial(OPERATIONS[name], names, *arguments))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "global": lambda names, name: _global(names, name),
    "attribute": lambda names, owner, name: getattr(owner, name),
    "call": lambda names, function, arguments, named: function(*arguments, **named),
    "item": lambda names, owner, key: owner[key],
    "iterate": lambda names, owner: list(owner),
    "next": lambda names, owner: next(owner),
    "length": lambda names, owner: len(owner),
    "text": lambda names, owner: str(owner),
}
"""What a test may do with an object of the candidate."""


def _main() -> dict[str, Any]:
    """Names of a new main module, in the place of this one."""
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    return module.__dict__


def _global(names: dict[str, Any], name: str) -> Any:
    if name not in names:
        raise NameError(f"name {name!r} is not defined")
    return names[name]


def _built_in_name(error: BaseException) -> str:
    """The nearest built-in exception, under whose name the test shall see it."""
    return next(kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind)


class Gone(RuntimeError):
    """The candidate ended, or sent what is no answer."""


class Remote:
    """An object of the candidate, as a test sees it. It can be used, but only plain values can be compared."""

    __slots__ = ("_ask", "_number")

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        self._ask, self._number = ask, number

    def __getattr__(self, name: str) -> Any:
        return self._ask("attribute", self, name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask("call", self, list(arguments), named)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", self, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._plain("iterate", list))

    def __next__(self) -> Any:
        return self._ask("next", self)

    def __len__(self) -> int:
        return self._plain("length", int)

    def __str__(self) -> str:
        return self._plain("text", str)

    def _plain(self, operation: str, kind: type) -> Any:
        answer = self._ask(operation, self)
        if type(answer) is not kind:
            raise Gone(f"{operation} gave no {kind.__name__}")
        return answer

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("only plain values can be compared: the candidate's own objects could say what they like")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Names(dict[str, Any]):
    """Names of a test: its own, built-in ones and modules of the standard library, and only then the candidate's.

    What is called cannot be a module: a candidate's function may have the name of one.
    """

    def __init__(self, ask: Callable[..., Any], tree: ast.Module) -> None:
        super().__init__(__name__="__test__", __builtins__=builtins)
        self._ask = ask
        calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
        self._modules = sys.stdlib_module_names - {call.id for call in calls if isinstance(call, ast.Name)}

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        return importlib.import_module(name) if name in self._modules else self._ask("global", name)


def judge(requests: BinaryIO, replies: BinaryIO, code: str, test: str) -> dict[str, str]:
    """Run a test whose unknown names are the candidate's.

    Args:
        requests: to the candidate; `replies` come from it.
        code: what the candidate runs first.
        test: statements; the test is passed when they end without an exception.

    Returns: `verdict`, "passed", "failed" or "fault", and `reason`."""
    if replies.readline(16) != READY:
        return {"verdict": "fault", "reason": "the candidate's process could not be locked up"}
    try:
        tree = ast.parse(test)
        compiled = compile(tree, "<test>", "exec")
    except (SyntaxError, ValueError) as error:
        return {"verdict": "fault", "reason": f"the test is no Python: {error}"}

    def tell(message: Any) -> Any:
        try:
            requests.write(json.dumps(message).encode() + b"\n")
            requests.flush()
            reply = json.loads(replies.readline(LONGEST_MESSAGE))
        except (OSError, ValueError, RecursionError) as error:
            raise Gone("the candidate ended, or sent what is no answer") from error
        if "raised" in reply:
            kind = getattr(builtins, str(reply["raised"]), RuntimeError)
            known = isinstance(kind, type) and issubclass(kind, Exception)
            raise (kind if known else RuntimeError)(str(reply["message"]))
        return decode(reply["value"], lambda number: Remote(ask, number))

    def ask(*message: Any) -> Any:
        return tell(encode(message, _number))

    try:
        tell(code)
        exec(compiled, Names(ask, tree))
    except BaseException as error:
        return {"verdict": "failed", "reason": f"{type(error).__name__}: {error}"[:SHOWN]}
    return {"verdict": "passed", "reason": ""}


def _number(value: Any) -> int:
    if not isinstance(value, Remote):
        raise TypeError(f"a test can hand over plain values, not a {type(value).__name__}")
    return value._number


def _as_candidate(limits: dict[str, int], confine: bool) -> None:
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    lock(limits, confine_files=confine)
    candidate(requests, replies)


def _as_judge(limits: dict[str, int], confine: bool, to: str, back: str) -> None:
    requests, replies = os.fdopen(int(to), "wb"), os.fdopen(int(back), "rb")
    lock(limits, confine_files=confine)
    job = json.load(sys.stdin)
    verdict = judge(requests, replies, job["code"], job["test"])
    sys.__stdout__.write("\n" + json.dumps(verdict))  # type: ignore[union-attr]


def _as_program(limits: dict[str, int], confine: bool, source: str, report: str) -> None:
    with os.fdopen(int(source), "rb") as file:
        code = file.read()
    lock(limits, confine_files=confine)
    os.write(int(report), READY)
    os.close(int(report))
    exec(compile(code, "<program>", "exec"), _main())


PARTS: dict[str, Callable[..., None]] = {"candidate": _as_candidate, "judge": _as_judge, "program": _as_program}

if __name__ == "__main__":
    sys.set_int_max_str_digits(DIGITS)
    try:
        PARTS[sys.argv[1]](json.loads(sys.argv[2]), sys.argv[3] == "confined", *sys.argv[4:])
    except LockError as problem:
        sys.exit(str(problem))
