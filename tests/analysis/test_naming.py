"""Names of runs, with as much of their folders as tells them apart."""

from pathlib import Path

from lmjax.analysis.naming import distinct, labels


def test_as_many_parts_of_the_paths_as_are_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distinct([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert distinct([Path("e1/a"), Path("e2/a"), Path("e2/b")]) == ["e1/a", "e2/a", "e2/b"]
    assert distinct([Path("x/e1/a"), Path("y/e1/a")]) == ["x/e1/a", "y/e1/a"]
    assert distinct([Path("a/seed0"), Path("b")]) == ["a/seed0", "b"]
    assert distinct([Path("."), Path("..")]) == [tmp_path.name, tmp_path.parent.name]


def test_only_what_is_called_the_same_gets_its_folder():
    names = ["resnet20, lm", "resnet20, lm", "resnet20, euler", "resnet20, lm", "resnet20, lm"]
    folders = [Path("e1/a"), Path("e1/a"), Path("e1/b"), Path("e2/a"), Path("e2/a")]
    first, second = "resnet20, lm (e1/a)", "resnet20, lm (e2/a)"
    assert labels(names, folders) == [first, first, "resnet20, euler", second, second]
