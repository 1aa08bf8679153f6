"""Serve a scorer over HTTP, so that its dependencies need not live with those of training; `remote` is the client."""

from __future__ import annotations

import argparse
import os
from functools import partial

from flowgrpo.cli.arguments import with_scorers
from flowgrpo.errors import RunError, UsageError
from flowgrpo.recipe_loading import load_recipe
from reward_models import check_name

HELP = "serve a scorer over HTTP"
TAKES_OVERRIDES = True
EXTRA = "pip install 'flowgrpo[serve]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scorer", metavar="NAME", required=True, help="its options are --reward.options.NAME.KEY")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    parser.add_argument(
        "--token-env", metavar="NAME", help="environment variable with the token that callers must bear"
    )
    parser.add_argument("--max-samples", type=_count, default=64, help="pictures per request (default: 64)")
    parser.add_argument("--max-pixels", type=_count, default=4096**2, help="pixels per picture (default: 4096 x 4096)")
    parser.add_argument("--max-bytes", type=_count, default=256 << 20, help="bytes per request (default: 256 MiB)")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    recipe = load_recipe(None, with_scorers(overrides, [options.scorer])).recipe
    try:
        check_name(options.scorer)
    except ValueError as error:
        raise UsageError(str(error)) from error
    token = _token(options.token_env)
    try:
        from reward_models.serve import is_loopback, make_app, serve
    except ImportError as error:
        raise RunError(f"serving needs {error.name}, which is not installed; right would be {EXTRA}") from error
    if not token and not is_loopback(options.host):
        raise UsageError(
            f"serve: others can reach {options.host!r}; right would be --token-env with a token, or --host 127.0.0.1"
        )
    from flowgrpo.devices import resolve_device
    from flowgrpo.rewarding import load_scorers
    from reward_models.wire import Limits

    device = str(resolve_device(recipe.run.device))
    scorer = load_scorers([options.scorer], recipe.reward, device=device)[options.scorer]
    limits = Limits(samples=options.max_samples, pixels=options.max_pixels, bytes=options.max_bytes)
    app = make_app(scorer, token=token, limits=limits)
    try:
        serve(app, host=options.host, port=options.port, ready=partial(_announce, f"{scorer.name} ({scorer.version})"))
    except (OSError, OverflowError) as error:
        raise RunError(f"serve: cannot listen at {options.host} port {options.port}: {error}") from error
    return 0


def _announce(what: str, address: str) -> None:
    print(f"serving {what} at {address}, described at {address}/docs", flush=True)


def _token(variable: str | None) -> str:
    token = os.environ.get(variable, "").strip() if variable else ""
    if variable and not token:
        raise UsageError(f"serve: the environment variable {variable!r} is not set; right would be one with the token")
    return token


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; right would be a whole number of 1 or more")
    return int(text)
