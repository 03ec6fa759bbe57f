"""Embeds images with a trained run.

    python -m contrastive_jax.embed --workdir=runs/simclr --split=test --output=test.npz
    python -m contrastive_jax.embed --workdir=runs/simclr --images=mine.npz --output=mine_embedded.npz

From Python: `contrastive_jax.load(workdir).embed(images)`.
"""

import os
import pathlib
import secrets
from collections.abc import Mapping

from absl import flags

from contrastive_jax.engine import command
from contrastive_jax.engine.checkpoint_flag import CHECKPOINT
from contrastive_jax.engine.split_flag import SPLIT

_IMAGES = flags.DEFINE_string('images', None, "A .npz file with an array 'image', uint8 [n, h, w] or [n, h, w, c].")
_OUTPUT = flags.DEFINE_string('output', None, 'The .npz file to write; must not exist.')


def main(config, workdir: str):
  """Writes `features` and `projection`; of a split `label` and `index` too, and what there is of captions."""
  from contrastive_jax.data.sources import read_images
  from contrastive_jax.engine.serve import load
  from contrastive_jax.engine.workdir import arrays_of
  from contrastive_jax.types import Refusal

  if _OUTPUT.value is None:
    raise Refusal('--output is needed: the .npz file to write')
  output = pathlib.Path(_OUTPUT.value)
  if output.exists():
    raise Refusal(f"--output='{output}' exists already")
  if not output.parent.is_dir():
    raise Refusal(f"--output='{output}' lies in no directory that exists")
  if not os.access(output.parent, os.W_OK | os.X_OK):
    raise Refusal(f"--output='{output}' lies in a directory that may not be written to")
  images = None if _IMAGES.value is None else read_images(_IMAGES.value)
  model = load(workdir, config, checkpoint=CHECKPOINT.value)
  fields = arrays_of(model.embed_split(SPLIT.value)) if images is None else model.embed_both(images)
  _write(output, fields)
  print(f'{output}: ' + ', '.join(f'{k} {list(v.shape)}' for k, v in fields.items()))


def _write(output: pathlib.Path, fields: Mapping):
  """Writes the file beside its place: under its name it is whole or not there, and never in place of another."""
  import numpy as np

  from contrastive_jax.types import Refusal

  unfinished = output.with_name(f'.{output.name}.{secrets.token_hex(4)}')
  try:
    with unfinished.open('xb') as file:  # given a name, numpy would add .npz to it
      np.savez(file, **fields)
      file.flush()
      os.fsync(file.fileno())
    try:
      os.link(unfinished, output)  # a rename would replace a file that came meanwhile
    except FileExistsError:
      raise Refusal(f"--output='{output}' exists already") from None
    except OSError:  # a file system without hard links: what comes now, between two lines, is replaced
      if output.exists():
        raise Refusal(f"--output='{output}' exists already") from None
      unfinished.rename(output)
  finally:
    unfinished.unlink(missing_ok=True)


def run():
  """The console script."""
  command.run(main, config_from_workdir=True)


if __name__ == '__main__':
  run()
