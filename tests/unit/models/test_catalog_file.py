"""What a user reads who made a mistake in the catalog: every problem, at its line, at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from models.catalog import Catalog
from models.catalog_file import CatalogError, load, parse
from models.spec import VllmModel

DEFAULT = Path(__file__).parents[3] / "fusion.yaml"

#: One good model and its judge on lines 1 to 3; a test adds its mistake from line 4 on.
GOOD = """\
models:
  small: {engine: fake}
roles: {judge: small}
"""


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        parse(dedent(text), "f.yaml", environ or {})
    assert str(caught.value).splitlines() == caught.value.lines
    return caught.value.lines


def test_a_good_catalog_is_a_catalog() -> None:
    assert parse(GOOD, "f.yaml", {}).resolve("small") is not None


# The file itself


def test_the_default_catalog_is_valid_without_any_key() -> None:
    catalog = load(DEFAULT, environ={})
    assert catalog.model_behind("default") == "smollm2"
    assert catalog.judge_of("default") == catalog.writer_of("default") == "smollm2"
    assert {"default", "general-fast", "general-budget", "general-high"} == set(catalog.panels)
    assert catalog.panels["default"].member_names == ("smollm2", "smollm2#2", "smollm2#3")
    for panel in catalog.panels.values():
        assert len({member.temperature for member in panel.members}) == len(panel.members)


def test_the_examples_in_the_default_catalog_work_when_their_marks_are_taken_away() -> None:
    text = re.sub(r"(?m)^  # ((?:  )?[\w.-]+:(?: .*)?)$", r"  \1", DEFAULT.read_text("utf-8"))
    catalog = parse(text, "fusion.yaml", {"OPENAI_API_KEY": "a-key"})
    assert [spec.tier for spec in catalog.models.values()] == ["workforce", "workforce", "flagship"]


def test_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "missing.yaml"
    with pytest.raises(CatalogError) as caught:
        load(path)
    assert caught.value.lines == [f"{path}:1: no such file — name an existing file"]


@pytest.mark.parametrize(
    "content",
    [b"\x7fELF\x02\x01\x01\x00\xff\xfe", b"models:\x00\n", "a: ä".encode("utf-16")],
    ids=["a program", "zero bytes", "UTF-16"],
)
def test_a_binary_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(content)
    with pytest.raises(CatalogError) as caught:
        load(path)
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(f"{path}:1: ")


def test_a_folder_is_not_a_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "- small\n", "small\n", "42\n"])
def test_an_empty_file_or_one_that_is_no_mapping(text: str) -> None:
    assert problems(text) == ["f.yaml:1: it must be a mapping — start with 'models:'"]


def test_not_yaml_names_the_line() -> None:
    (line,) = problems(GOOD + "aliases:\n\tdefault: small\n")
    assert line.startswith("f.yaml:5: not YAML: found character '\\t'")
    assert line.endswith("— look at this line and the one above")


def test_yaml_that_would_run_code_is_refused() -> None:
    (line,) = problems("models: !!python/object/apply:os.getcwd []\n")
    assert line.startswith("f.yaml:1: not YAML")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("models: \x01\n", id="control character"),
        pytest.param("? [small]\n: 1\n", id="a list as a key"),
        pytest.param("models: {? {a: 1} : 2}\n", id="a mapping as a key"),
        pytest.param("models: &all\n  all: *all\n", id="an anchor inside itself"),
        pytest.param("models: 2026-13-45\n", id="a day that does not exist"),
        pytest.param("models: !!int many\n", id="a number that is none"),
    ],
)
def test_odd_yaml_is_a_problem_and_not_a_crash(text: str) -> None:
    assert all(line.startswith("f.yaml:") for line in problems(text))


# Keys


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5_000,
        '{"a": ' + "[" * 5_000,
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
    ],
    ids=["deep", "deep JSON", "a billion laughs"],
)
def test_what_would_never_end_is_a_problem(text: str) -> None:
    assert problems(text) == ["f.yaml:1: it says too much, or too deeply — write it shorter"]


def test_a_catalog_is_the_same_after_a_way_as_json() -> None:
    override = r"""{eps: 1e-6, big: +1.5E+20, part: .5e3, name: "1e-6", odd: "\x7f\U0001F600"}"""
    catalog = parse(
        "models:\n  m: {engine: vllm, source: 'hf:x/y', context: 4096, engine_args: "
        f"{{hf_overrides: {override}}}}}\nroles: {{judge: m}}\n",
        "f.yaml",
        {},
    )
    [args] = [spec.engine_args for spec in catalog.models.values() if isinstance(spec, VllmModel)]
    said = {"eps": 1e-6, "big": 1.5e20, "part": 5e2, "name": "1e-6", "odd": "\x7f\U0001f600"}
    assert args["hf_overrides"] == said
    assert parse(catalog.model_dump_json(), "catalog", {}) == catalog
    as_ascii = json.dumps(catalog.model_dump(mode="json"), indent="\t")
    assert parse(as_ascii, "catalog", {}) == catalog


def test_a_mistake_in_json_is_named_with_its_line() -> None:
    text = '{"models": {"small": {"engine": "fake"}},\n\t"roles": {"judge": "a\x7f"}}'
    assert problems(text)[0].startswith("f.yaml:2: ")


def test_an_unknown_key_gets_the_nearest_one() -> None:
    text = """\
        models:
          small:
            engine: fake
            contxt: 4096
        role: {judge: small}
        roles: {judge: small, subtasks: {cod: small}}
        server: {prot: 80}
        """
    assert problems(text) == [
        "f.yaml:4: unknown key 'models.small.contxt' — did you mean 'context'?",
        "f.yaml:5: unknown key 'role' — did you mean 'roles'?",
        "f.yaml:6: unknown key 'roles.subtasks.cod' — did you mean 'code'?",
        "f.yaml:7: unknown key 'server.prot' — did you mean 'port'?",
    ]


def test_an_unknown_key_like_no_other_gets_the_list() -> None:
    (line,) = problems(GOOD + "server:\n  xyz: 1\n")
    assert line.startswith("f.yaml:5: unknown key 'server.xyz' — remove it; known here: ")
    assert "max_body_mb" in line


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("models:\n  small: {engine: fake, base_url: x}\nroles: {judge: small}\n", "base_url"),
        (GOOD + "panels:\n  p: {temperature: 1, members: [small]}\n", "temperature"),
        (GOOD + "panels:\n  p: {members: [{model: small, judge: small}]}\n", "judge"),
    ],
    ids=["of another engine", "of a member", "of a panel"],
)
def test_a_key_of_another_record_is_not_its_own_mend(text: str, key: str) -> None:
    assert not any(f"did you mean '{key}'?" in line for line in problems(text))


def test_one_bad_member_is_one_problem() -> None:
    assert problems(GOOD + "panels:\n  p:\n    members:\n      - {model: small, persna: x}\n") == [
        "f.yaml:7: unknown key 'panels.p.members.0.persna' — did you mean 'persona'?"
    ]


def test_a_key_that_stands_twice() -> None:
    text = """\
        models:
          small: {engine: fake}
          small: {engine: fake}
        roles:
          judge: small
          judge: small
        """
    assert problems(text) == [
        "f.yaml:3: 'small' stands twice (first on line 2) — keep one",
        "f.yaml:6: 'judge' stands twice (first on line 5) — keep one",
    ]


def test_of_a_key_that_stands_twice_the_value_that_counts_is_found_where_it_stands() -> None:
    assert problems(GOOD + "aliases:\n  brain: small\n  brain: nobody\n") == [
        "f.yaml:6: 'brain' stands twice (first on line 5) — keep one",
        "f.yaml:6: nothing is called 'nobody' — define it under models or aliases",
    ]


def test_what_must_be_there_and_is_not() -> None:
    assert problems("server: {port: 80}\n") == [
        "f.yaml:1: 'models' is missing — add it",
        "f.yaml:1: 'roles' is missing — add it",
    ]
    (line,) = problems("models:\n  small:\n    engine: vllm\nroles: {judge: small}\n")
    assert line.startswith("f.yaml:2: 'models.small") and "source' is missing" in line


@pytest.mark.parametrize("spec", ["{source: x}", "{engine: vlm}", "{engine: [fake]}", "{}"])
def test_an_engine_that_does_not_exist(spec: str) -> None:
    (line,) = problems(f"roles: {{judge: small}}\nmodels:\n  small: {spec}\n")
    assert line.startswith("f.yaml:3: 'models.small' needs an engine that exists")
    assert all(engine in line for engine in ("vllm", "fake", "openai"))


# Values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("context", "big"),
        ("context", "[1]"),
        ("context", "1.5"),
        ("max_output", "0"),
        ("tools", "7"),
        ("replicas", "yes"),
        ("replicas", "{min: 3, max: 2}"),
        ("max_ongoing", "0"),
        ("max_queued", "-1"),
        ("cpus", "-0.5"),
        ("env", "{A: 1}"),
        ("price", "free"),
        ("fallbacks", "small"),
        ("reply", "2026-11-22"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_line(key: str, value: str) -> None:
    text = f"roles: {{judge: small}}\nmodels:\n  small:\n    engine: fake\n    {key}: {value}\n"
    (line,) = problems(text)
    assert re.match(rf"f\.yaml:5: 'models\.small\.{key}[.\w]*'", line)


@pytest.mark.parametrize("price", ["-1", "x", ".nan", ".inf", "[1]", "yes", "1000001"])
def test_a_price_that_is_none(price: str) -> None:
    spec = f"{{engine: fake, price: {{input: {price}, output: 1}}}}"
    (line,) = problems(f"models:\n  small: {spec}\nroles: {{judge: small}}\n")
    assert line.startswith("f.yaml:2: 'models.small.price.input'")


def test_two_settings_that_do_not_fit_are_reported_on_their_model() -> None:
    text = """\
        roles: {judge: small}
        models:
          small:
            engine: fake
            context: 1000
        """
    (line,) = problems(text)
    assert line.startswith("f.yaml:3: 'models.small': ")
    assert line.endswith("max_output (1024) must be below context (1000)")


@pytest.mark.parametrize("name", ["7", "yes", "1.5", "2026-11-22", "null"])
def test_a_name_that_yaml_does_not_read_as_text_is_found_at_its_line(name: str) -> None:
    (line,) = problems(
        f"roles: {{judge: small}}\nmodels:\n  small: {{engine: fake}}\n  {name}: {{engine: fake}}\n"
    )
    assert line.startswith("f.yaml:4: ")


def test_a_section_of_the_wrong_kind() -> None:
    lines = problems("models: [small]\naliases: small\npanels:\n  p: small\nroles: small\n")
    assert [line.split(":", 2)[1] for line in lines] == ["1", "2", "4", "5"]


def test_a_key_that_stands_in_the_file_itself_is_not_repeated_on_the_screen() -> None:
    # A newcomer's mistake; what we print ends in terminals, logs and bug reports.
    lines = problems("""\
        models:
          large:
            engine: openai
            api_key_env: sk-proj-4f7a
        roles: {judge: large}
        """)
    assert all(line.startswith("f.yaml:4: ") for line in lines)
    assert not any("sk-proj-4f7a" in line for line in lines)


# Names


def test_an_alias_that_points_nowhere() -> None:
    assert problems(GOOD + "aliases:\n  default: smal\n  brain: zzz\n") == [
        "f.yaml:5: nothing is called 'smal' — did you mean 'small'?",
        "f.yaml:6: nothing is called 'zzz' — define it under models or aliases",
    ]


def test_aliases_in_a_circle() -> None:
    assert problems(GOOD + "aliases:\n  a: b\n  b: c\n  c: a\n") == [
        "f.yaml:5: aliases go in a circle: a → b → c → a — point one of them at a model",
        "f.yaml:6: aliases go in a circle: b → c → a → b — point one of them at a model",
        "f.yaml:7: aliases go in a circle: c → a → b → c — point one of them at a model",
    ]


def test_an_alias_of_itself_and_one_that_leads_into_a_circle() -> None:
    assert problems(GOOD + "aliases:\n  a: a\n  b: a\n") == [
        "f.yaml:5: aliases go in a circle: a → a — point one of them at a model",
        "f.yaml:6: aliases go in a circle: a → a — point one of them at a model",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "aliases: {it: small}\nlimits:\n  model:it: {day: 1}\n",
            "'it' is an alias, and what is spent is booked on the model behind it — "
            "limit model:small",
        ),
        (
            "aliases: {it: small}\nlimits:\n  model:smal: {day: 1}\n",
            "no model is called 'smal' — name a model, or model:*",
        ),
        (
            "panels: {p: {members: [small]}}\nrouter:\n  panels: [auto]\n",
            "no panel is called 'auto' — panels here: p",
        ),
        (
            "panels:\n  p:\n    {members: [small], tools: [web_serach]}\n",
            "no tool 'web_serach' is configured under tools — configured: none",
        ),
    ],
)
def test_names_that_would_do_nothing(more: str, said: str) -> None:
    (line,) = problems(GOOD + more)
    assert line.partition(": ")[2] == said


def test_limits_of_models_that_there_are() -> None:
    limits = "limits: {model:small: {day: 1}, 'model:*': {day: 1}}\n"
    assert len(parse(GOOD + limits, "f.yaml", {}).limits) == 2


def test_parts_of_a_cpu_are_ten_thousandths() -> None:
    (line,) = problems("models:\n  a: {engine: fake, cpus: 0.12345}\nroles: {judge: a}\n")
    assert "ten-thousandths" in line


def test_a_panel_of_nine() -> None:
    members = ", ".join(["small"] * 9)
    assert problems(GOOD + f"panels:\n  many:\n    members: [{members}]\n") == [
        "f.yaml:6: 'panels.many.members' has more than 8 members — keep at most 8"
    ]


def test_a_panel_of_none() -> None:
    (line,) = problems(GOOD + "panels:\n  none:\n    members: []\n")
    assert line.startswith("f.yaml:6: 'panels.none.members'")


@pytest.mark.parametrize("name", ["fusion/duo", "fusion/auto", "openrouter/fusion"])
def test_no_fusion_inside_a_fusion(name: str) -> None:
    text = f"""\
{GOOD}aliases: {{hidden: {name}}}
panels:
  default: {{members: [small]}}
  duo:
    members:
      - small
      - {name}
      - {{model: hidden, temperature: 1}}
    judge: {name}
"""
    what = f"'{name}' is a fusion and cannot stand here — name a model"
    assert problems(text) == [f"f.yaml:{line}: {what}" for line in (10, 11, 12)]


@pytest.mark.parametrize("role", ["judge", "synthesis"])
def test_a_judge_and_a_writer_are_models(role: str) -> None:
    roles = {"judge": "small", role: "fusion/auto"}
    text = "models:\n  small: {engine: fake}\nroles:\n" + "".join(
        f"  {key}: {value}\n" for key, value in roles.items()
    )
    assert problems(text) == [
        f"f.yaml:{3 + len(roles)}: 'fusion/auto' is a fusion and cannot stand here — name a model"
    ]


def test_a_plan_and_a_subtask_may_be_fusions() -> None:
    text = GOOD.replace(
        "{judge: small}", "{judge: small, plan: fusion/p, subtasks: {code: fusion/auto}}"
    )
    assert parse(text + "panels: {p: {members: [small]}}\n", "f.yaml", {}).roles.plan == "fusion/p"


def test_names_that_point_nowhere_are_found_wherever_they_stand() -> None:
    text = """\
        models:
          small:
            engine: fake
            fallbacks: [small,
              nobody1]
        panels:
          p:
            members:
              - nobody2
              - model: nobody3
            judge: nobody4
            synthesis: nobody5
        roles:
          judge: nobody6
          synthesis: nobody7
          plan: nobody8
          subtasks:
            code: nobody9
        """
    found = [(line.split(":")[1], line.split("'")[1]) for line in problems(text)]
    lines = (5, 9, 10, 11, 12, 14, 15, 16, 18)
    assert found == [(str(line), f"nobody{i}") for i, line in enumerate(lines, 1)]


@pytest.mark.parametrize("name", ["auto", "plan"])
def test_a_reserved_name_of_a_panel(name: str) -> None:
    assert problems(GOOD + f"panels:\n  {name}: {{members: [small]}}\n") == [
        f"f.yaml:5: a panel cannot be called '{name}' — that name is reserved; take another"
    ]


@pytest.mark.parametrize("name", ["fusion/mine", "fusion/auto", "openrouter/fusion"])
def test_a_reserved_prefix_of_a_model_or_an_alias(name: str) -> None:
    text = f"""\
        roles: {{judge: small}}
        models:
          small: {{engine: fake}}
          {name}: {{engine: fake}}
        aliases:
          {name}: small
        """
    what = f"'{name}' starts with a reserved prefix — rename it"
    lines = problems(text)
    assert f"f.yaml:4: {what}" in lines
    assert f"f.yaml:6: {what}" in lines


def test_a_name_for_two_things() -> None:
    assert problems(GOOD + "aliases: {small: small}\n") == [
        "f.yaml:2: 'small' is both a model and an alias — rename one of them"
    ]


# The environment


FLAGSHIP = """\
models:
  large:
    engine: openai
    api_key_env: LARGE_KEY
roles: {judge: large}
"""


@pytest.mark.parametrize("environ", [{}, {"LARGE_KEY": ""}])
def test_a_key_that_is_not_in_the_environment(environ: dict[str, str]) -> None:
    assert problems(FLAGSHIP, environ) == [
        "f.yaml:4: model 'large' needs the environment variable LARGE_KEY, which is not set"
        " — export LARGE_KEY=... or remove the model"
    ]


def test_a_key_that_is_in_the_environment_and_stays_there() -> None:
    catalog = parse(FLAGSHIP, "f.yaml", {"LARGE_KEY": "secret"})
    assert "secret" not in repr(catalog)


# All of it


def test_everything_that_is_wrong_is_said_at_once_in_the_order_of_the_file() -> None:
    text = """\
        server:
          port: 99999
        models:
          small:
            engine: fake
            contxt: 4096
          large:
            engine: openai
            api_key_env: LARGE_KEY
        aliases:
          default: smal
          a: b
          b: a
        panels:
          auto:
            members: [small, fusion/auto]
        roles:
          judge: small
          judge: large
        """
    found = [int(line.split(":")[1]) for line in problems(text)]
    assert found == [2, 6, 9, 11, 12, 13, 15, 16, 19]


def test_a_problem_is_one_line_whatever_is_in_it() -> None:
    (line,) = problems('models:\n  "a\\nb": {engine: fake}\n  c: {engine: fake}\nroles: {judge: c}')
    assert "\n" not in line


def test_a_mistake_behind_an_anchor_is_shown_where_it_is_written() -> None:
    text = """\
        models:
          small: &base
            engine: fake
          large:
            <<: *base
            reply: [no]
        roles: {judge: small}
        panels:
          p: &p
            members: [nobody]
          q: *p
        """
    found = [line.split(":")[1] for line in problems(text)]
    assert found == ["6", "10"]


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.sampled_from(["small", "fake", "fusion/auto", "", "a b"])
)
_KEYS = _SCALARS | st.sampled_from(
    ["models", "aliases", "panels", "roles", "server", "members", "engine", "judge", "price"]
)
_DATA = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3)
)


@given(sections=st.dictionaries(_KEYS, _DATA, max_size=5))
@settings(max_examples=60)
def test_any_yaml_is_a_catalog_or_a_list_of_problems(sections: dict[Any, Any]) -> None:
    data = {"models": {"small": {"engine": "fake"}}, "roles": {"judge": "small"}} | sections
    text = yaml.safe_dump(data)
    try:
        assert isinstance(parse(text, "f.yaml", {}), Catalog)
    except CatalogError as error:
        assert error.problems
        last = text.count("\n") + 1
        assert all(1 <= problem.line <= last for problem in error.problems)


@given(text=st.text(st.characters(codec="utf-8")))
@settings(max_examples=60)
def test_any_text_is_a_catalog_or_a_list_of_problems(text: str) -> None:
    with pytest.raises(CatalogError):
        parse(text, "f.yaml", {})


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("{nodes: 2}", "a store in a file serves one machine, and nodes is 2"),
        ("{nodes: 2, store: sqlite:////var/fusion.db}", "a store in a file serves one machine"),
        ("{store: fusion.db}", "'server.store': not the address of a store"),
    ],
)
def test_a_store_that_cannot_serve(server: str, words: str) -> None:
    (line,) = problems(GOOD + f"server: {server}\n")
    assert words in line


def test_a_password_in_a_stores_address_is_refused_and_not_repeated() -> None:
    (line,) = problems(GOOD + "server: {store: postgresql://me:planted@host/name}\n")
    assert "not the address of a store" in line
    assert "planted" not in line


def test_several_nodes_on_postgresql() -> None:
    catalog = parse(GOOD + "server: {nodes: 3, store: postgresql://me@host:5432/x}\n", "f.yaml", {})
    assert catalog.server.nodes == 3
