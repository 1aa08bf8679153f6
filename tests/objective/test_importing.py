"""A user's own function by import path: found from module and file, and every fault is one clear sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgrpo.errors import RecipeError
from flowgrpo.importing import resolve
from reward_models.importing import import_function

TABLE = {"double": lambda x: 2 * x, "halve": lambda x: x / 2}
SOURCE = "def triple(x):\n    return 3 * x\n\nNUMBER = 3\n"


def test_a_name_a_module_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_rules.py").write_text(SOURCE)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "my_inner_rules.py").write_text(SOURCE.replace("3 *", "30 *"))
    monkeypatch.chdir(tmp_path)
    assert resolve("double", TABLE, "key")(4) == 8
    assert resolve("math:floor", TABLE, "key")(4.5) == 4
    assert resolve("my_own_rules.py:triple", TABLE, "key")(4) == 12
    assert resolve(f"{tmp_path}/pack/my_inner_rules.py:triple", TABLE, "key")(4) == 120
    assert resolve("pack.my_inner_rules:triple", TABLE, "key")(4) == 120


def test_a_file_is_executed_once(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(SOURCE)
    spec = f"{tmp_path}/f.py:triple"
    first = resolve(spec, TABLE, "key")
    assert first is resolve(spec, TABLE, "key") is import_function(spec), "rewards and recipes share the module"
    (tmp_path / "f.py").write_text(SOURCE.replace("3 *", "4 *"))
    assert resolve(spec, TABLE, "key")(2) == 8, "a file that changed is another one"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("doubel", "key: unknown name 'doubel', expected one of double, halve or your own function as .*'double'"),
        ("no_such_module_at_all:f", "key: there is no module 'no_such_module_at_all'"),
        ("math.no_such_part:f", "key: there is no module 'math.no_such_part'"),
        ("math:flor", r"key: 'math' has no function 'flor' \(did you mean 'floor'\?\)"),
        ("math:pi", "key: 'pi' in 'math' is a float, not a function"),
        ("math:", "key: 'math:' is no import path; right would be "),
        (":floor", "key: ':floor' is no import path"),
        ("absent.py:f", "key: there is no file 'absent.py' in "),
        ("broken.py:f", "key: 'broken.py' fails on import: SyntaxError: "),
        ("raises.py:f", "key: 'raises.py' fails on import: ZeroDivisionError: division by zero"),
        ("needs.py:f", "key: 'needs.py' fails on import: No module named 'no_such_dependency'"),
        ("good.py:tripel", r"key: 'good.py' has no function 'tripel' \(did you mean 'triple'\?\)"),
    ],
)
def test_faults(spec: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"broken": "def", "raises": "1 / 0", "needs": "import no_such_dependency", "good": SOURCE}
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=says) as error:
        resolve(spec, TABLE, "key")
    assert "\n" not in str(error.value)
