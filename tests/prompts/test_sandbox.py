"""The sandbox of chat templates: what transformers writes, and nothing that takes the machine's time or memory."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from transformers.utils.chat_template_utils import render_jinja_template

from tunesmith.errors import SettingsError
from tunesmith.prompts import check_template, sandbox
from tunesmith.prompts.sandbox import render_source

TURNS = [
    {"role": "system", "content": "  Be <brief>.\n"},
    {"role": "user", "content": "a\nb é 🙂"},
    {"role": "assistant", "content": "X & Y"},
]
DOUBLED_LIST = "{% set a = ['a'] %}" + "{% set a = [a, a] %}" * 60
LONG = "{% set x = 'a' * 9999 %}"


def given(bomb: str) -> str:
    """Short enough to read in a test's name."""
    return bomb if len(bomb) < 70 else f"{bomb[:20]} .. {bomb[-45:]}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}\n  <|{{ m.role }}|>{{ m['content'] | trim }}\n{%- endfor %}\n{{ bos_token }}",
        "{% if add_generation_prompt %}yes{% endif %}{{ tools is none }}{{ documents }}{{ missing }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% break %}{% endfor %}",
        "{% macro f(x, y=2) %}[{{ x ~ y }}]{% endmacro %}{{ f(1) ~ f('b', y=none) }}{{ f(missing) }}",
        "{% set ns = namespace(text='', n=0) %}{% for m in messages[1:] %}{% set ns.text = ns.text + m.content[:3] %}"
        "{% set ns.n = ns.n + 2 ** 3 * 2 %}{% endfor %}{{ ns.text }}{{ ns.n }}{{ ns.n / 3 }}{{ 7 // 2 }}{{ 7 % 4 }}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0] | tojson(sort_keys=true) }}"
        "{{ 'é' | tojson(ensure_ascii=true, separators=(',', ':')) }}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'eq', 'user') | list }}"
        "{{ messages | join('-', attribute='role') }}{{ '/'.join(['a', 'b']) }}{{ [1, 2] | sum }}",
        "{{ '%s is %02d' | format('a', 3) }}{{ '%(a)s %(a)s' % {'a': 1} }}{{ '%d%%' % 5 }}{{ '%s' % [1] }}",
        "{{ '{} {a:>4} {{}} {1[0]}'.format(1, 'xy', a=2) }}{{ '{a}'.format_map({'a': 3}) }}",
        "{{ 'a\nb' | indent }}{{ 'a\nb' | indent(2, true) }}{{ 'a\n\nb' | indent('> ', blank=true) }}",
        "{{ 'aXbX' | replace('X', '--', 1) }}{{ 'aXbX'.replace('X', '') }}{{ 'a' * 3 }}{{ 2 * [1] }}{{ [1] + [2] }}",
        "{{ ' a B '.strip().split(' ') }}{{ 'ab' | upper | lower | title | first | e }}{{ '<' | e }}{{ -3 | abs }}",
        "{% set a %}{{ messages[0].role }}!{% endset %}{{ a }}{% for i in range(3) if i %}{{ i }}{% endfor %}",
        "{% for k, v in messages[0].items() %}{{ k }}{{ v }}{% else %}-{% endfor %}{{ messages[0] | dictsort }}",
        "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{% endcall %}{% block b %}b{% endblock %}",
        "{{ dict(a=1)['a'] }}{{ ['b', 'a'] | sort | last }}{{ 'x' if messages is defined else 'y' }}{{ 'a' in 'ba' }}",
    ],
)
def test_what_it_writes_is_what_transformers_writes(source: str) -> None:
    values: dict[str, Any] = {"bos_token": "<s>", "add_generation_prompt": True}
    rendered: Any = render_jinja_template([TURNS], chat_template=source, **values)
    assert render_source(source, messages=TURNS, **values) == rendered[0][0]


@pytest.mark.parametrize(
    "bomb",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n < 60 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}",
        DOUBLED_LIST + "{{ a }}",
        DOUBLED_LIST + "{{ a | tojson }}",
        DOUBLED_LIST + "{{ a | upper | length }}",
        DOUBLED_LIST + "{{ a | string | length }}",
        DOUBLED_LIST + "{{ ('x' ~ a) | length }}",
        DOUBLED_LIST + "{{ ('%s' % a) | length }}",
    ],
    ids=given,
)
def test_what_never_ends_is_ended(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.1)
    with pytest.raises(SecurityError, match=r"it computes for more than 0\.1 seconds|it makes more than 67,108,864"):
        render_source(bomb, messages=TURNS)


@pytest.mark.parametrize(
    "bomb",
    [
        "{% set x = 'a' * 200000000 %}",
        "{% set x = 200000000 * 'a' %}",
        "{% set x = [0] * 200000000 %}",
        "{{ 'a' | indent(200000000, true) }}",
        LONG + "{{ x.replace('a', x) }}",
        LONG + "{{ x | replace('a', x) }}",
        LONG + "{{ ([x] * 9999) | join }}",
        LONG + "{{ (['a'] * 9999) | join(x) }}",
        LONG + "{{ ''.join([x] * 9999) }}",
        LONG + "{{ x.join(['a'] * 9999) }}",
        LONG + "{{ ('%s' * 9999) % ((x,) * 9999) }}",
        LONG + "{{ ('%(a)s' * 9999) | format(a=x) }}",
        LONG + "{{ ('{0}' * 9999).format(x) }}",
        LONG + "{{ ('{a}' * 9999).format_map({'a': x}) }}",
        LONG + "{% set x = x + x %}" * 40,
        LONG + "{% set x = x ~ x %}" * 40,
        LONG + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
        LONG + "{% set ns = namespace(l=0) %}{% for i in range(9999) %}{% set ns.l = [ns.l, x[i:]] %}{% endfor %}",
        LONG + "{% set ns = namespace(l=0) %}{% for i in range(9999) %}{% set ns.l = [ns.l, x | upper] %}{% endfor %}",
        LONG + "{% set ns = namespace(l=0) %}{% for i in range(9999) %}{% set ns.l = [ns.l, x | e] %}{% endfor %}",
        LONG + "{% set ns = namespace(l=0) %}{% for i in range(9999) %}{% set ns.l = [ns.l, x.upper()] %}{% endfor %}",
        LONG + "{% set ns = namespace(l=0) %}{% for i in range(999) %}{% set ns.l = [ns.l, x | list] %}{% endfor %}",
        "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
        "{% for i in range(99999) %}{{ '" + "x" * 9999 + "' }}{% endfor %}",
    ],
    ids=given,
)
def test_what_fills_the_memory_is_refused_before_it_does(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 60.0)  # a slow machine shall meet the other bound as well
    tracemalloc.start()
    try:
        with pytest.raises(SecurityError, match="it makes more than 67,108,864 characters"):
            render_source(bomb, messages=TURNS)
        assert tracemalloc.get_traced_memory()[1] < 1.2 * 67_108_864
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("bomb", "told"),
    [
        ("{{ '%200000000d' % 1 }}", "a width over 99"),
        ("{{ '%(a)200000000d' % {'a': 1} }}", "a width over 99"),
        ("{{ '%*d' % (200000000, 1) }}", "one that is computed"),
        ("{{ '%200000000d' | format(1) }}", "a width over 99"),
        ("{{ '{:>200000000}'.format(1) }}", "a width over 99"),
        ("{{ '{:>{}}'.format(1, 200000000) }}", "one that is computed"),
        ("{{ [] | tojson(indent=200000000) }}", "it indents JSON by 200000000"),
        ("{{ 10 ** 200000000 }}", "a number of more than 4,096 bits"),
        ("{% set x = 10 ** 1000 %}{{ x * x }}", "a number of more than 4,096 bits"),
        ("{{ 'a'.ljust(200000000) }}", "'ljust' of 'str' object is unsafe"),
        ("{{ ('' | attr('ljust'))(200000000) }}", "'ljust' of 'str' object is unsafe"),
        ("{{ (1).to_bytes(200000000, 'big') }}", "'to_bytes' of 'int' object is unsafe"),
        ("{{ ['a'] | map('center', 200000000) | list }}", "No filter named 'center'"),
        ("{{ lipsum(n=200000000) }}", "'lipsum' is undefined"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "begins with an underscore"),
        ("{{ namespace(_a=1) }}", "begins with an underscore"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
    ids=given,
)
def test_what_else_is_refused(bomb: str, told: str) -> None:
    with pytest.raises(TemplateError, match=told):
        render_source(bomb, messages=TURNS)


def test_every_rendering_has_a_budget_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHARACTERS", 1000)
    source = "{{ 'a' * n }}"  # paid for twice: made, and written
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(render_source(source, n=450))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [*texts, render_source(source, n=450), render_source(source, n=450)] == ["a" * 450] * 4
    with pytest.raises(SecurityError, match="it makes more than 1,000 characters"):
        render_source(source, n=550)


@pytest.mark.parametrize(
    ("bomb", "cause"),
    [
        ("\n{{ 'a' * 200000000 }}", "line 2 of the template: it makes more than 67,108,864 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_the_user_hears_where_and_what_to_do(make_family: Callable[..., Any], bomb: str, cause: str) -> None:
    with pytest.raises(SettingsError, match="cannot be trained on") as caught:
        check_template("chat", make_family("chatml", template=bomb))
    assert cause in str(caught.value.cause)
    assert "correct the chat template" in str(caught.value.fix)
