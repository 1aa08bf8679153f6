"""The command line. Commands import what they need when they run: `--help` and whatever needs no model stay quick.

Exit codes: 0 done, 1 something failed at run time, 2 the command line, recipe or prompts are wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from flowgrpo import __version__
from flowgrpo.cli import benchmark, check, cite, env, evaluate, models, report, sample, score, serve, train
from flowgrpo.cli.overrides import hint_for_option, split_overrides
from flowgrpo.cli.warning_lines import warnings_as_lines
from flowgrpo.errors import RUN_TIME, FlowgrpoError, UsageError, did_you_mean, first_line

COMMANDS: dict[str, Any] = {
    "train": train,
    "eval": evaluate,
    **benchmark.commands(),
    "sample": sample,
    "score": score,
    "serve": serve,
    "check": check,
    "report": report,
    "models": models,
    "cite": cite,
    "env": env,
}
_FIRST_WORDS = tuple(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS))
INTERRUPTED = 130
OUT_OF_MEMORY = "; docs/troubleshooting.md, 'Memory and time', has the remedies in order"
EPILOG = """Recipes are shipped names (flowgrpo env lists them) or YAML files. Any value is changed by
--section.key VALUE, such as --train.lr 1e-4 or --reward.names gold,clip."""


class Parser(argparse.ArgumentParser):
    """argparse that reports a wrong command line as a `UsageError`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words after the program's name; None takes the process's own.

    Returns: the exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except SystemExit as done:  # argparse leaves this way after --help and --version
        return int(done.code or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing is wrong, and stdout cannot be flushed any more.
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except Exception as error:
        if "--traceback" in words:
            traceback.print_exc()
        for line in _lines(error):
            print(f"flowgrpo: error: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, FlowgrpoError) else RUN_TIME


def _run(words: list[str]) -> int:
    arguments, overrides = split_overrides(words)
    parser = _parser()
    _check_command(arguments)
    arguments = _joined(arguments)
    options, unknown = parser.parse_known_args(arguments)
    command = COMMANDS[options.command]
    if unknown:
        hint = hint_for_option(unknown[0], _options(command), takes_overrides=command.TAKES_OVERRIDES)
        raise UsageError(f"{options.command}: unknown option {unknown[0]!r}{hint}")
    if overrides and not command.TAKES_OVERRIDES:
        raise UsageError(f"{options.command} takes no recipe, so {overrides[0]!r} means nothing here")
    with warnings_as_lines():
        return command.run(options, overrides)


def _check_command(arguments: Sequence[str]) -> None:
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is None and not {"-h", "--help", "--version"} & set(arguments):
        raise UsageError(f"no command given; one of {', '.join(_FIRST_WORDS)} (flowgrpo --help explains)")
    if first is not None and first not in _FIRST_WORDS:
        known = ", ".join(_FIRST_WORDS)
        raise UsageError(f"unknown command {first!r}{did_you_mean(first, _FIRST_WORDS)} (commands: {known})")


def _joined(arguments: list[str]) -> list[str]:
    """The words of a command as one, such as "eval unigenbench judge", as many of them as name one."""
    if arguments[:1] == ["eval"]:
        benchmark.check_words(arguments)
    length = next((n for n in (3, 2, 1) if " ".join(arguments[:n]) in COMMANDS), 0)
    return [" ".join(arguments[:length]), *arguments[length:]] if length else arguments


def _parser() -> Parser:
    parser = Parser(prog="flowgrpo", description="Align diffusion and flow models with rewards.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"flowgrpo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        listed = {"help": module.HELP} if module.HELP else {}
        command = commands.add_parser(name, **listed, description=module.__doc__, epilog=EPILOG, allow_abbrev=False)
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
        module.add_arguments(command)
    return parser


def _options(command: Any) -> list[str]:
    parser = Parser(allow_abbrev=False)
    command.add_arguments(parser)
    return sorted(set(re.findall(r"--[a-z][a-z-]*", parser.format_usage())))


def _lines(error: Exception) -> list[str]:
    """Our own errors as they are; of any other, its class and first line."""
    if isinstance(error, FlowgrpoError):
        return [line for line in str(error).splitlines() if line.strip()]
    said = first_line(error)
    # Deliberate errors of the two packages below us are ValueErrors with a whole sentence.
    named = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
    remedy = OUT_OF_MEMORY if type(error).__name__ == "OutOfMemoryError" else ""
    return [f"{named} (--traceback shows where){remedy}"]
