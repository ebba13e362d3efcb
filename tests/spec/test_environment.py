"""What a task requires: read from its files, checked for what other machines would not find."""

from __future__ import annotations

import pytest

from mesh.core.errors import InvalidSpec
from mesh.spec.environment import LARGEST, requirements_of_file, requirements_of_lines
from mesh.spec.sweep import Sweep, parse
from tests.spec.helpers import PATH, run

HEAD = "program: a.py\nmethod: grid\nparameters: {x: {value: 1}}\n"


class Files:
    """Texts by their absolute path."""

    def __init__(self, **texts: str) -> None:
        self.texts = {f"/data/team/{name}": text for name, text in texts.items()}

    def load(self, path: str) -> str:
        if path not in self.texts:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.texts[path].encode("latin-1").decode("utf-8")


def sweep(options: str, **texts: str) -> Sweep:
    return parse(f"{HEAD}mesh: {options}\n", PATH, load=Files(**texts).load)


def problems(options: str, **texts: str) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        sweep(options, **texts)
    return [str(problem) for problem in caught.value.problems]


REQUIREMENTS = """\
# what we need
scipy>=1.11   # statistics
numpy ; python_version < "3.13"

torch==2.5.1 \\
    --hash=sha256:00
git+https://example.org/x.git@main#egg=x
--extra-index-url https://example.org/simple
--find-links /opt/wheels
-e git+https://example.org/y.git#egg=y
pkg @ file:///opt/pkg.whl
/opt/z-1.0-py3-none-any.whl
more[all]~=1.0
"""


def test_a_file_becomes_its_lines_without_comments_which_every_task_carries_and_its_digest_holds() -> None:
    found = sweep("{env: {requirements: r}}", r=REQUIREMENTS)
    assert found.options.requirements.splitlines() == [
        "scipy>=1.11",
        'numpy ; python_version < "3.13"',
        "torch==2.5.1 --hash=sha256:00",
        "git+https://example.org/x.git@main#egg=x",
        "--extra-index-url https://example.org/simple",
        "--find-links /opt/wheels",
        "-e git+https://example.org/y.git#egg=y",
        "pkg @ file:///opt/pkg.whl",
        "/opt/z-1.0-py3-none-any.whl",
        "more[all]~=1.0",
    ]
    job, tasks, works = run(found)
    assert works[0].requirements == found.options.requirements
    other_job, other_tasks, _ = run(sweep("{env: {requirements: r}}", r="scipy\n"))
    assert job.digest != other_job.digest
    assert tasks[0].digest != other_tasks[0].digest


def test_comments_and_empty_lines_change_nothing() -> None:
    options = "{env: {requirements: r}}"
    one, two = sweep(options, r="a==1\nb\n"), sweep(options, r="# it\n\n  a==1 # exactly\r\nb")
    assert one.options == two.options


def test_an_included_file_stands_where_it_is_included_and_once() -> None:
    files = Files(**{"r": "a\n-r deep/s\nb\n", "deep/s": "c\n--requirement=../r\n-rt\n", "deep/t": "d"})
    assert requirements_of_file("/data/team/r", files.load) == ("a\nc\nd\nb", [])


@pytest.mark.parametrize("text", ["", "\n# nothing\n\n"])
def test_what_requires_nothing_is_none(text: str) -> None:
    assert sweep("{env: {requirements: r}}", r=text).options == sweep("{env: }").options


@pytest.mark.parametrize(
    "line",
    [
        "./pkg", "../pkg", "-e .", "--editable=./pkg", "pkg.whl", "dist/pkg-1.0.tar.gz", "pkg @ file:./pkg", "file:pkg",
        "./pkg[all]", "--find-links wheels", "-fwheels", "./pkg ; python_version > '3'", "pkg-1.0.zip[all]",
    ],
)  # fmt: skip
def test_a_path_that_only_this_machine_has_is_refused_with_its_line(line: str) -> None:
    (problem,) = problems("{env: {requirements: r}}", r=f"scipy\n\n{line}\n")
    assert problem.startswith("4:28: mesh.env.requirements: r, line 3: ")
    assert "is a path that other machines do not have; build a wheel" in problem


def test_everything_wrong_is_said_at_once_beside_what_else_is_wrong() -> None:
    found = problems(
        "{priority: 99, env: {requirements: r, python: '3', vars: {MESH_X: 1}}}",
        r="./a\n-c pins.txt\n-r absent\n-r s\n-r https://example.org/r\n",
        s="\n./b \\\n ; python_version > '3'\nc\xff",
    )
    assert [problem.partition(";")[0] for problem in found] == [
        "4:18: mesh.priority must be a whole number from 1 to 10, not 99",
        "4:42: mesh.env.requirements: absent cannot be read: No such file or directory",
        "4:42: mesh.env.requirements: r, line 1: './a' is a path that other machines do not have",
        "4:42: mesh.env.requirements: r, line 2: '-c pins.txt': constraints do not travel",
        "4:42: mesh.env.requirements: r, line 5: '-r https://example.org/r': what is included must be a file beside it",
        "4:42: mesh.env.requirements: s is not UTF-8 text",
        "4:53: mesh.env.python: '3' is no minor version of Python",
        "4:65: mesh.env.vars: MESH_X is the mesh's own",
    ]
    (found_b,) = problems("{env: {requirements: s}}", s="\n./b \\\n ; python_version > '3'\n")
    assert "s, line 2: " in found_b


def test_a_missing_file_has_a_place() -> None:
    assert problems("{env: {requirements: none.txt}}") == [
        "4:28: mesh.env.requirements: none.txt cannot be read: No such file or directory"
    ]
    assert problems("{env: {requirements: [scipy]}}") == ["4:28: mesh.env.requirements must be text, not a list"]


def test_more_than_a_task_should_carry_is_refused() -> None:
    (problem,) = problems("{env: {requirements: r}}", r="x" * (LARGEST + 1))
    assert f"{LARGEST + 1:,} characters" in problem
    assert "leave out hashes" in problem


def test_lines_from_python_follow_the_same_rules() -> None:
    assert requirements_of_lines(["scipy  # x", "", "a \\", "  ==1"]) == ("scipy\na ==1", [])
    _, found = requirements_of_lines(["./a", "-r other.txt", "ok"])
    assert len(found) == 2
    assert "other.txt' names a file; write what stands in it" in found[1]


@pytest.mark.parametrize(("given", "told"), [("3", "no minor"), ("3.11.4", "no minor"), ("'py3.11'", "no minor")])
def test_a_python_that_is_none(given: str, told: str) -> None:
    (problem,) = problems(f"{{env: {{python: {given}}}}}")
    assert told in problem


def test_tasks_are_for_nodes_with_the_python_that_is_asked_for() -> None:
    _, tasks, _ = run(sweep("{env: {python: 3.10}}"))
    assert tasks[0].shape.python == "3.10"
    _, tasks, _ = run(sweep("{}"))
    assert tasks[0].shape.python == ""
