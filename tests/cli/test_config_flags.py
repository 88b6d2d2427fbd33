"""Config files and fields on the command line."""

import pytest
from ml_collections import ConfigDict

from jaxpose.cli import config_flags
from jaxpose.errors import ConfigError

MINE = """
from ml_collections import ConfigDict

def get_config(variant="plain"):
    return ConfigDict({"name": variant, "ratio": 0.5, "steps": 3, "flip": True, "size": (1, 2), "nothing": None})
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mine(folder):
    (folder / "mine.py").write_text(MINE)
    return "mine.py"


def load(name: str, *arguments: str):
    rest, fields = config_flags.split(arguments)
    assert rest == []
    return config_flags.load(name, fields)


class TestFiles:
    @pytest.mark.parametrize("name", ["prtr:coco", "prtr.py:coco", "configs/prtr.py:coco", "configs/prtr:coco"])
    def test_an_installed_config_has_several_names(self, folder, name):
        assert load(name).name == "prtr_coco"

    def test_a_file_that_exists_comes_first(self, folder, mine):
        (folder / "configs").mkdir()
        (folder / "configs" / "prtr.py").write_text(MINE)
        assert load("configs/prtr.py:other").name == "other"
        assert load("prtr:coco").name == "prtr_coco"
        assert load(mine).name == "plain"
        assert load(str(folder / mine)).name == "plain"

    def test_each_load_is_fresh(self, mine):
        load(mine, "--config.steps=9")
        assert load(mine).steps == 3

    def test_no_field_can_be_added_afterwards(self, mine):
        assert load(mine).is_locked

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("prt", r"config 'prt': there is no such config file\. Did you mean 'prtr'\?"),
            ("configs/xyzzy.py", r"no such config file\. Installed configs: anatomy3d, .*rmpe"),
            ("elsewhere/prtr.py", "no such config file"),
            ("__init__", "no such config file"),
            ("", "no such config file"),
            ("prtr:cocoa", r"configs/prtr\.py has no variant 'cocoa'; there are .*coco"),
        ],
    )
    def test_unknown_files_and_variants(self, folder, name, message):
        with pytest.raises(ConfigError, match=message):
            load(name)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "has no function get_config"),
            ("def get_config(): return {}", "gives dict, expected ConfigDict"),
            ("def get_config(): pass", "gives NoneType, expected ConfigDict"),
        ],
    )
    def test_files_that_are_no_configs(self, folder, text, message):
        (folder / "mine.py").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load("mine.py")

    def test_a_file_without_variants(self, folder):
        (folder / "mine.py").write_text("def get_config(): pass")
        with pytest.raises(ConfigError, match="has no variants"):
            load("mine.py:coco")

    def test_errors_within_a_file_are_its_own(self, folder):
        (folder / "mine.py").write_text("import a_library_that_nobody_has")
        with pytest.raises(ModuleNotFoundError):
            load("mine.py")


class TestFields:
    @pytest.mark.parametrize(
        ("arguments", "field", "value"),
        [
            (["--config.steps=7"], "steps", 7),
            (["--config.steps", "7"], "steps", 7),
            (["-config.steps=7"], "steps", 7),
            (["--config.steps=7", "--config.steps=8"], "steps", 8),
            (["--config.ratio=2"], "ratio", 2.0),
            (["--config.ratio", "-1e-3"], "ratio", -1e-3),
            (["--config.flip=false"], "flip", False),
            (["--config.flip", "False"], "flip", False),
            (["--noconfig.flip"], "flip", False),
            (["--noconfig.flip", "--config.flip"], "flip", True),
            (["--config.size=(3, 4, 5)"], "size", (3, 4, 5)),
            (["--config.size=[3]"], "size", (3,)),
            (["--config.size=()"], "size", ()),
            (["--config.size=3", "--config.size=4"], "size", (3, 4)),
            (["--config.name=a=b --c"], "name", "a=b --c"),
            (["--config.name="], "name", ""),
        ],
    )
    def test_values_by_the_type_of_the_field(self, mine, arguments, field, value):
        found = load(mine, *arguments)[field]
        assert found == value
        assert type(found) is type(value)

    def test_a_field_that_others_follow(self):
        config = load("prtr", "--config.dtype=bfloat16")
        assert config.method.dtype == "bfloat16"

    def test_a_whole_section(self):
        config = load("prtr", "--config.optim.schedule={'name': 'step'}", "--config.optim.schedule.name=cosine")
        assert config.optim.schedule.name == "cosine"

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("--config.steps=many", r"--config\.steps: found 'many', expected a whole number"),
            ("--config.steps=1.5", "found '1.5', expected a whole number"),
            ("--config.steps", "found 'true', expected a whole number"),
            ("--config.ratio=half", "found 'half', expected a number"),
            ("--config.flip=maybe", "found 'maybe', expected true or false"),
            ("--config.size=(1,", "expected a tuple such as"),
            ("--config.nothing=1", "cannot be set here"),
            ("--config.step=1", r"no such field\. Did you mean --config\.steps\?"),
            ("--config.xyzzy=1", "no such field. It has flip, name"),
            ("--config.items=1", "no such field"),
            ("--config.steps.more=1", "no such field"),
            ("--config.size[7]=1", "no such field"),
            ("--config.steps-=1", "no such field"),
        ],
    )
    def test_what_does_not_fit(self, mine, argument, message):
        with pytest.raises(ConfigError, match=message):
            load(mine, argument)

    def test_a_field_of_another_section(self):
        with pytest.raises(ConfigError, match=r"Did you mean --config\.optim\.learning_rate\?"):
            load("prtr", "--config.learning_rate=1")


class TestSplit:
    def test_other_arguments_keep_their_order(self):
        arguments = ["a", "--config.x=1", "--config=prtr", "b", "--config.y", "2", "--z", "--config.w", "--v", "c"]
        rest, fields = config_flags.split(arguments)
        assert rest == ["a", "--config=prtr", "b", "--z", "--v", "c"]
        assert fields == [("x", "1"), ("y", "2"), ("w", "true")]

    def test_nothing_is_taken_after_two_dashes(self):
        assert config_flags.split(["--config.x=1", "--", "--config.y=1"]) == (["--", "--config.y=1"], [("x", "1")])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1e-3", 1e-3), ("true", True), ("False", False), ("[1, 2]", [1, 2]), ("(1, 2)", (1, 2)), ("a.b", "a.b"),
     ("null", None), ("{'a': 1}", {"a": 1}), ("", ""), ("{[]: 1}", "{[]: 1}")],
)  # fmt: skip
def test_literals(text, value):
    assert config_flags.literal(text) == value


def test_configs_are_dictionaries_of_ml_collections():
    assert isinstance(load("prtr"), ConfigDict)
