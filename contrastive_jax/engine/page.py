"""The parts of a self-contained HTML page: no script, nothing to load, light and dark."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def text(value: Any) -> str:
  """Escaped: nothing in it is markup."""
  return html.escape(str(value))


def page(title: str, facts: str, sections: Mapping[str, str]) -> str:
  """A whole page; the contents of the sections are HTML, titles and facts are plain text."""
  anchors = _anchors(sections)
  links = ' '.join(f'<a href="#{anchors[name]}">{text(name)}</a>' for name in sections)
  body = ''.join(
    f'<section id="{anchors[name]}"><h2>{text(name)}</h2>\n{content}</section>\n' for name, content in sections.items()
  )
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{text(title)}</h1><p class="facts">{text(facts)}</p><nav>{links}</nav></header>
<main>
{body}</main>
</body>
</html>
"""


def _anchors(names: Iterable[str]) -> dict[str, str]:
  """A different fragment for each name, of letters, digits and hyphens alone."""
  found: dict[str, str] = {}
  for number, name in enumerate(names):
    plain = re.sub(r'\W+', '-', name.lower()).strip('-')
    found[name] = plain if plain and plain not in found.values() else f'{plain}-{number}'
  return found


def figure(light: bytes, dark: bytes, *, alt: str, caption: str, wide: bool = False) -> str:
  """A picture as two embedded PNG files, for light and dark screens."""
  day, night = (f'data:image/png;base64,{base64.b64encode(data).decode()}' for data in (light, dark))
  return (
    f'<figure class="{"wide" if wide else "small"}"><picture><source srcset="{night}" '
    f'media="(prefers-color-scheme: dark)"><img src="{day}" alt="{text(alt)}"></picture>'
    f'<figcaption>{text(caption)}</figcaption></figure>\n'
  )


def grid(figures: Iterable[str]) -> str:
  """Figures side by side where there is room."""
  return f'<div class="grid">\n{"".join(figures)}</div>\n'


def pictures(items: Iterable[tuple[bytes, str, str]], *, coarse: bool = False) -> str:
  """Small pictures side by side, each a PNG file, its caption and a note; `coarse` ones show their few pixels."""
  cells = ''.join(
    f'<li><img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{text(caption)}">'
    f'<span>{text(caption)}</span><small>{text(note)}</small></li>\n'
    for data, caption, note in items
  )
  return f'<ol class="pictures{" coarse" if coarse else ""}">\n{cells}</ol>\n'


def table(head: Sequence[str], rows: Iterable[tuple[str, str, Sequence[str]]], *, kind: str = '') -> str:
  """Numbers by row and column; a row is its name, a line that explains it (or ''), and its cells.

  Cells that start with '*' are the best of their column. `kind` is a class of the style sheet: 'headline', or 'stacked'
  for tables whose names stand above their cells on a narrow screen.
  """

  def cell(value: str) -> str:
    return f'<td>{f"<strong>{text(value[1:])}</strong>" if value.startswith("*") else text(value)}</td>'

  columns = ''.join(f'<th>{text(name)}</th>' for name in head)
  body = ''.join(
    f'<tr><th scope="row">{text(name)}{f"<small>{text(meaning)}</small>" if meaning else ""}</th>'
    f'{"".join(map(cell, cells))}</tr>\n'
    for name, meaning, cells in rows
  )
  return (
    f'<div class="scroll"><table class="numbers {kind}" style="--columns: {len(head)}">'
    f'<thead><tr><th></th>{columns}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'
  )


def settings(values: Mapping[str, Any]) -> str:
  """Names and values, one a row; of what is nested the names are joined by dots."""
  body = ''.join(
    f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>\n' for name, value in _flat(values).items()
  )
  return f'<div class="scroll"><table class="settings"><tbody>{body}</tbody></table></div>\n'


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  if not isinstance(tree, Mapping) or not tree:
    return {prefix: tree}
  return {
    key: value
    for name, child in tree.items()
    for key, value in _flat(child, f'{prefix}.{name}' if prefix else str(name)).items()
  }


def sentences(lines: Iterable[str]) -> str:
  """A list of sentences."""
  return f'<ul>{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul>\n'


def missing(what: str) -> str:
  """Says what a section would have needed."""
  return f'<p class="missing">{text(what)}</p>\n'


STYLE = """
:root { --page: #fff; --text: #1f2328; --muted: #656d76; --line: #e1e4e8; --accent: #2f6fb2; --tint: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16191d; --text: #e6e8eb; --muted: #9aa2ab; --line: #2b3037; --accent: #6aa9e9; --tint: #1d2126; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 1rem; }
section { padding-top: 2.5rem; }
.facts { margin: .4rem 0 0; color: var(--muted); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin-top: 1.2rem; padding: .6rem 0; font-size: .9rem;
  border-block: 1px solid var(--line); }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { color: var(--muted); font-weight: 500; }
tbody th { font-weight: 500; }
th small { display: block; max-width: 34rem; color: var(--muted); font-weight: 400; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
.numbers td { white-space: nowrap; }
.numbers td:last-child, .numbers thead th:last-child { padding-right: 0; }
@media (max-width: 34rem) {
  .stacked tr { display: grid; grid-template-columns: repeat(var(--columns), 1fr); padding: .45rem 0;
    border-bottom: 1px solid var(--line); }
  .stacked th, .stacked td { padding: 0 .6rem 0 0; border: 0; }
  .numbers.stacked td, .numbers.stacked thead th:not(:first-child) { text-align: left; }
  .stacked tbody th { grid-column: 1 / -1; padding-bottom: .2rem; }
  .stacked thead th:first-child { display: none; }
}
.headline { width: auto; min-width: min(100%, 30rem); font-size: 1.05rem; }
.settings th, .settings td { padding-block: .22rem; }
.settings th { width: 1%; white-space: nowrap; color: var(--muted); font-weight: 400; padding-right: 1.6rem; }
.settings td { font: .86rem/1.7 ui-monospace, 'SF Mono', Menlo, Consolas, monospace; overflow-wrap: anywhere; }
ul { margin: 1rem 0 0; padding-left: 1.2rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.6rem 1.8rem; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; }
figure.small { max-width: 32rem; }
figure.wide { max-width: 42rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: 1.4rem 1.2rem;
  margin: 0 0 1.4rem; padding: 0; list-style: none; font-size: .88rem; line-height: 1.35; overflow-wrap: anywhere; }
.pictures img { display: block; width: 100%; height: auto; margin-bottom: .4rem; }
.pictures.coarse img { image-rendering: pixelated; }
.pictures small { display: block; color: var(--muted); font-variant-numeric: tabular-nums; }
figcaption { margin-top: .5rem; color: var(--muted); font-size: .88rem; }
.missing { margin: 0; padding: .7rem 1rem; background: var(--tint); border-left: 3px solid var(--line);
  color: var(--muted); }
"""
