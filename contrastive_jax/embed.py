"""Embeds images with a trained run.

    python -m contrastive_jax.embed --workdir=runs/simclr --split=test --output=test.npz
    python -m contrastive_jax.embed --workdir=runs/simclr --images=mine.npz --output=mine_embedded.npz

From Python: `contrastive_jax.load(workdir).embed(images)`.
"""

from absl import flags

from contrastive_jax.engine import command
from contrastive_jax.engine.serve import load

_SPLIT = flags.DEFINE_string('split', 'test', "Split of the run's data set to embed, where --images is not given.")
_IMAGES = flags.DEFINE_string('images', None, "A .npz file with an array 'image', uint8 [n, h, w] or [n, h, w, c].")
_OUTPUT = flags.DEFINE_string('output', None, 'The .npz file to write; must not exist.')

__all__ = ['load', 'main', 'run']


def main(config, workdir: str):
  """Writes `features`, `projection`, and `label` and `index` where a split is embedded."""
  import os

  import numpy as np

  from contrastive_jax.data.sources import arrays
  from contrastive_jax.types import Refusal

  if _OUTPUT.value is None:
    raise Refusal('--output is needed: the .npz file to write')
  if os.path.exists(_OUTPUT.value):
    raise Refusal(f"--output='{_OUTPUT.value}' exists already")
  model = load(workdir, config)
  if _IMAGES.value is None:
    fields = model.embed_split(_SPLIT.value)._asdict()
  else:
    source = arrays(path=_IMAGES.value, split='all')
    fields = model.embed_both(source.read(np.arange(source.num_examples))['image'])
  np.savez(_OUTPUT.value, **fields)
  print(f'{_OUTPUT.value}: ' + ', '.join(f'{k} {list(v.shape)}' for k, v in fields.items()))


def run():
  """The console script."""
  command.run(main, config_from_workdir=True)


if __name__ == '__main__':
  run()
