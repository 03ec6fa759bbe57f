"""Searches the pictures of a trained run by text, or by a picture.

    python -m contrastive_jax.search --workdir=runs/clip --query="crying cat" --query=fruit
    python -m contrastive_jax.search --workdir=runs/clip --image=mine.png --split=all --top=24

Prints rank, cosine and caption of the best, and writes a page with the pictures. docs/search.md is the guide.
"""

import os
import pathlib

from absl import flags

from contrastive_jax.engine import command
from contrastive_jax.engine.checkpoint_flag import CHECKPOINT
from contrastive_jax.engine.split_flag import SPLIT

_QUERY = flags.DEFINE_multi_string('query', [], 'A text to search for; may be given several times.')
_IMAGE = flags.DEFINE_multi_string('image', [], 'A picture to search for; may be given several times.')
_TOP = flags.DEFINE_integer('top', 12, 'How many pictures to show for each.')
_PAGE = flags.DEFINE_string('page', None, 'The .html file to write; WORKDIR/search.html unless given.')
WIDTH = 100  # characters of a caption in the terminal


def main(config, workdir: str):
  """Prints what is found, and writes the page."""
  import numpy as np

  from contrastive_jax.engine import search
  from contrastive_jax.engine.serve import load

  target = _checked(workdir)
  search.check_split(SPLIT.value)
  model = load(workdir, config, checkpoint=CHECKPOINT.value)
  shape = model.sources['train'].input_shape
  texts, pictures = dict.fromkeys(_QUERY.value), {path: search.picture(path, shape) for path in _IMAGE.value}
  vectors = []
  if texts:
    vectors.append(model.embed_texts([*texts]))
  if pictures:
    vectors.append(model.embed_both(np.stack([*pictures.values()]))['projection'])
  index = search.open_index(model, config, workdir, SPLIT.value)
  names = [f'“{text}”' for text in texts] + [f'picture {path}' for path in pictures]
  asked = {f'picture {path}': image for path, image in pictures.items()}
  found = dict(zip(names, search.find(index, np.concatenate(vectors), top=_TOP.value), strict=True))
  facts = f'{len(index.row):,} pictures of split {SPLIT.value} · {workdir}, step {model.step}'
  print(facts + (' · index kept with the run' if index.kept else ' · index made'))
  for name, hits in found.items():
    print(f'\n{printable(name)}')
    for hit in hits:
      print(f'{hit.rank:5d}  {hit.cosine:6.3f}  {printable(hit.caption)}')
  _write(target, search.build_page('Search', facts, found, model.sources, asked))
  print(f'\npage: {target}')


def _checked(workdir: str) -> pathlib.Path:
  """Where the page goes; refuses flags that cannot be used, before anything is loaded."""
  from contrastive_jax.types import Refusal

  if not _QUERY.value and not _IMAGE.value:
    raise Refusal('--query or --image is needed: a text or a picture to search for')
  if not all(text.strip() for text in _QUERY.value):
    raise Refusal('--query is empty: a text to search for is needed')
  if _TOP.value < 1:
    raise Refusal(f'--top={_TOP.value}: at least 1 picture is needed')
  target = pathlib.Path(_PAGE.value or pathlib.Path(workdir, 'search.html'))
  if target.suffix != '.html':
    raise Refusal(f"--page='{target}' must end in .html")
  if _PAGE.value and not target.parent.is_dir():
    raise Refusal(f"--page='{target}' lies in no directory that exists")
  return target


def printable(text: str) -> str:
  """A text in one line without what would steer a terminal."""
  plain = ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())
  return plain if len(plain) <= WIDTH else f'{plain[: WIDTH - 1]}…'


def _write(target: pathlib.Path, text: str):
  """Writes the page whole, or refuses."""
  from contrastive_jax.types import Refusal

  part = target.with_suffix('.part')
  try:
    part.write_text(text, encoding='utf-8')
    os.replace(part, target)
  except OSError as error:
    raise Refusal(f"--page='{target}' cannot be written: {error}") from None


def run():
  """The console script."""
  command.run(main, config_from_workdir=True)


if __name__ == '__main__':
  run()
