"""YAML as a tree with lines: read by the core rules, and everything that a bomb is made of refused with its line."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.dag.marked import Map, Seq, Tree
from overnight.dag.plan import plan
from overnight.dag.read import pipeline
from overnight.errors import UsageError
from overnight.yamls import MOST_BYTES, read, resolved

MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"b{n}: &b{n} {{<<: [{', '.join(f'*b{n - 1}' if n else '*a' for _ in range(9))}]}}\n" for n in range(12)
)
LAUGHS = "a: &a [lol]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9))


def plain(tree: Tree) -> object:
    """The values alone."""
    if isinstance(tree, Map):
        return {key.text: plain(value) for key, value in tree.pairs}
    return [plain(item) for item in tree.items] if isinstance(tree, Seq) else tree.value


def refusal(text: str | bytes) -> str:
    """The one sentence with which a text is refused."""
    with pytest.raises(UsageError) as caught:
        read(text if isinstance(text, bytes) else text.encode(), "p.yaml")
    return caught.value.message


def test_every_value_knows_its_line() -> None:
    tree = read(b"a: 1\n\nb:\n  - x\n  - y\n", "p.yaml")
    assert isinstance(tree, Map)
    (_, first), (key, second) = tree.pairs
    assert isinstance(second, Seq)
    assert (first.line, key.line, [item.line for item in second.items]) == (1, 3, [4, 5])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("1:30", "1:30"), ("true", True), ("False", False), ("~", None), ("", None), ("Null", None),
        ("12", 12), ("-3", -3), ("012", 12), ("0o14", 12), ("0xC", 12), ("1_000", "1_000"), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("-.inf", -math.inf), ("1.", 1.0),
        ("2001-01-01", "2001-01-01"), ("0b11", "0b11"), ("1.2.3", "1.2.3"), ("9" * 50, "9" * 50), ("=", "="), ("y", "y"), ("٣", "٣"),
    ],
)  # fmt: skip
def test_plain_values_are_read_by_the_core_rules_of_yaml_1_2(text: str, value: object) -> None:
    assert (resolved(text), type(resolved(text))) == (value, type(value))


def test_a_value_in_quotes_is_a_text() -> None:
    assert plain(read(b"a: '1'\nb: \"true\"\nc: |\n  12\n", "p.yaml")) == {"a": "1", "b": "true", "c": "12\n"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x", "p.yaml:1: the anchor &x is not allowed; write the value out, or use defaults:"),
        ("\nb: *x", "p.yaml:2: the alias *x is not allowed; write the value out"),
        ("\na: !!python/object/apply:os.system [id]", "p.yaml:2: the tag tag:yaml.org,2002:python/object/apply:os.system is not allowed; write the plain value"),
        ("a: !x 1", "p.yaml:1: the tag !x is not allowed; write the plain value"),
        ("a:\n  <<: {b: 1}", "p.yaml:2: the merge key << is not allowed; use defaults:"),
        ("a: 1\nb: 2\na: 3", "p.yaml:3: 'a' stands here a second time; the first is in line 1"),
        ("a: 1\n---\nb: 2", "p.yaml:2: a second document begins here; a file holds one"),
        ("? [a]\n: 1", "p.yaml:1: a list cannot be a name"),
        ("[" * 17 + "]" * 17, "p.yaml:1: this is nested more than 16 levels deep"),
        ("", "p.yaml:1: it is empty"),
        ("# nothing", "p.yaml:1: it is empty"),
        ("a:\n\t- b", "p.yaml:2: this is no YAML: found character that cannot start any token (while scanning for the next token)"),
        ("a: 1\nb: \x01", "p.yaml:2: a character that no YAML may hold"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_refused_with_its_line(text: str, said: str) -> None:
    assert refusal(text) == said


def test_bytes_that_are_no_text_are_refused_with_their_line() -> None:
    assert (refusal(b"a: 1\nb: \xff"), refusal("a: 1".encode("utf-16"))) == (
        "p.yaml:2: it is no UTF-8 text",
        "p.yaml:1: it is no UTF-8 text",
    )


def test_too_much_is_refused() -> None:
    assert (refusal("x" * (MOST_BYTES + 1)), refusal("a:\n" + "- x\n" * 100_001)) == (
        f"p.yaml:1: it has {MOST_BYTES + 1} bytes; {MOST_BYTES} are allowed", "p.yaml:99997: there is more than 100000 values in it",
    )  # fmt: skip


@pytest.mark.parametrize(
    "bomb",
    [
        MERGE_BOMB, LAUGHS, "[" * 2**19, "{a: " * 2**17, "- " * 2**19, "? " * 2**19, "? " * 100, "a: &" + "x" * 10**5, "!" * 2**19, "%TAG ! !\n" * 10**4, "'" * 2**19, "|\n" * 2**19,
        "nodes: [{name: a, command: x, matrix: {" + ", ".join(f"k{n}: [{', '.join(map(str, range(99)))}]" for n in range(90)) + "}}]",
        "nodes: [{name: a, command: x, outputs: '" + "*" * 2000 + "b'}]", "nodes: [{name: a, command: x, outputs: '" + "**/" * 30 + "b'}]",
        "nodes:\n" + "".join(f"- {{name: n{n}, command: x, matrix: {{a: [{', '.join(map(str, range(400)))}]}}, needs: [{f'n{n - 1}' if n else ''}]}}\n" for n in range(2)).replace("matrix: {a", "matrix: {a", 1).replace("matrix: {a", "matrix: {b", 1),
        "nodes:\n" + "".join(f"- {{name: n{n}, command: x, needs: n{(n + 1) % 999}}}\n" for n in range(999)),
        "9" * 2**19, "a: " + "1" * 5000, "a: " + "." * 10**5,
    ],
    ids=range(20),
)  # fmt: skip
@pytest.mark.timeout(20)  # each costs milliseconds; one that goes off takes minutes
def test_a_bomb_does_not_go_off(bomb: str) -> None:
    with pytest.raises(UsageError):
        plan(*pipeline(read(bomb.encode(), "p.yaml"), "p.yaml"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["{{ a.b " * 10**5, "{{ a.b" + " " * 10**5, "{{" + " " * 10**5, "{{ a" + "." * 10**5], ids=range(4))
def test_a_placeholder_that_never_ends_is_a_text(text: str) -> None:
    found, _ = pipeline(read(f"nodes:\n- {{name: a, command: '{text}'}}".encode(), "p.yaml"), "p.yaml")
    assert plan(found, {}).tasks[0].node.command == text


SCRAPS = st.sampled_from([
    "nodes:", "\n", "  ", "- ", "name: a", "name: b", "command: x", "needs: [a]", "needs: b", "matrix: {s: [1, 2]}", "outputs: ['*']", "dependencies:", "source: a", "target: b", "{", "}", "[", "]",
    "&x", "*x", "!!str", "<<: ", "---", "...", "%YAML 1.1", "|", ">", "'", '"', "#", ": ", ", ", "? ", "\t", "{{ matrix.s }}", "{{ a.loss }}", "retries: 3", "when: always", "1e999", "\u2028", "\ud800", "\x00", "..", "/etc",
    "time_limit: 2h", "env: {A: 1}", "defaults:", "gpu_count: -1",
])  # fmt: skip


def _told(text: str) -> str:
    """Read, understand and plan; nothing but the one declared error may come of it, whose words these are."""
    try:
        plan(*pipeline(read(text.encode("utf-8", "surrogatepass"), "p.yaml"), "p.yaml"))
    except UsageError as exc:
        return exc.message
    return "p.yaml:1: it can be run"


def _any(examples: int, texts: st.SearchStrategy[str]) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(texts)
    def each(text: str) -> None:
        assert re.match(r"p\.yaml:[1-9][0-9]*: .", _told(text))

    each()


_ODD = {"scraps": st.lists(SCRAPS, max_size=40).map("".join), "letters": st.text(max_size=200)}


@pytest.mark.parametrize("kind", _ODD)
def test_scraps_of_pipelines_and_any_text_are_read_or_refused_with_a_line(kind: str) -> None:
    _any(1_000, _ODD[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", _ODD)
def test_ten_thousand_of_them_are_read_or_refused_with_a_line(kind: str) -> None:
    _any(10_000, _ODD[kind])
