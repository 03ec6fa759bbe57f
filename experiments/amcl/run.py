"""AMCL: what several heads with temperatures of every pair gain over SimCLR, as views get more kinds of augmentation.

    python -m experiments.amcl.run

Trains both on digits whose views are rotated only, then shifted and zoomed too, then changed in contrast and noise,
then cut out as well. Writes a table and a figure beside this file. Runs are kept in runs/amcl. Some 14 minutes of one
CPU core.

Source of the claim: Wang et al., 2024, "Adaptive Multi-head Contrastive Learning".
"""

import pathlib

from experiments import compare

METHODS = {
  'SimCLR': ('ssl/simclr.py', dict(method__temperature=0.2)),
  'AMCL': ('ssl/amcl.py', {}),
}
PLAIN = dict(shear=0.0, zoom=(1.0, 1.0), shift=0.0, contrast=0.0, brightness=0.0, noise=0.0, erase=0.0)
STEPS = {
  'rotation': dict(rotate=15.0),
  '+ shift, zoom': dict(shift=0.1, zoom=(0.85, 1.15)),
  '+ contrast, noise': dict(contrast=0.3, brightness=0.2, noise=0.03),
  '+ cut-out': dict(erase=0.3),
}


def conditions() -> dict[str, dict]:
  """Overrides by what is added last: each has the augmentations of those before it."""
  found, views = {}, PLAIN
  for name, added in STEPS.items():
    views = views | added
    found[name] = {f'data__views__{key}': value for key, value in views.items()}
  return {name: dict(data__batch_size=128, train__epochs=20) | options for name, options in found.items()}


if __name__ == '__main__':
  compare.study(pathlib.Path(__file__).parent, __doc__, METHODS, conditions())
