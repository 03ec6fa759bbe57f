"""AMCL: do heads and predicted temperatures gain over SimCLR, and more so as views get more kinds of augmentation?

    python -m experiments.amcl.run

Trains on garments, whose views are cropped only, or also mirrored, turned, sheared, changed in tone and cut out:
SimCLR; SimCLR with three heads, the control of what heads gain by themselves; AMCL's loss at one constant temperature,
the control of its form; AMCL with the published constants; and AMCL with a least temperature at which those of
positives stay between their bounds. Writes a table and a figure beside this file. Runs are kept in runs/amcl: the same
command goes on where it was interrupted. Some 25 minutes of one CPU core.

Source of the claim: Wang et al., 2024, "Adaptive Multi-head Contrastive Learning".
"""

import pathlib

from experiments import compare

AMCL = 'ssl/amcl.py'
METHODS = {
  'SimCLR': ('ssl/simclr.py', dict(method__temperature=0.2, optimiser__clip_norm=1.0)),
  'SimCLR, 3 heads': (AMCL, dict(method__temperature=0.2)),
  # The bounds may not be equal; apart by a millionth, every temperature is the same.
  'AMCL, constant 0.2': (AMCL, dict(method__tau_min=0.2, method__tau_max=0.2000002, method__beta=0.0)),
  'AMCL, published': (AMCL, {}),
  'AMCL, from 0.1': (AMCL, dict(method__tau_min=0.1)),
}
CROPS = dict(flip=0.0, rotate=0.0, shear=0.0, brightness=0.0, contrast=0.0, erase=0.0)
VIEWS = {'crops': CROPS, 'all kinds': {}}
# What one CPU core has time for: 300 training images of each class, a probe of two strengths, and no geometry.
SHARED = dict(data__imbalance_largest=300, data__batch_size=128, train__epochs=6, encoder__widths=(16, 32, 64))
SHARED |= dict(evals__linear__strengths=(1e-2, 1e-3), evals__linear__max_iterations=100, evals__geometry=False)


def conditions() -> dict[str, dict]:
  """Overrides by the kinds of augmentation."""
  return {name: SHARED | {f'data__views__{key}': value for key, value in more.items()} for name, more in VIEWS.items()}


if __name__ == '__main__':
  logged = {'positive_temperature': 'temperature of positives'}
  here = pathlib.Path(__file__).parent
  compare.study(here, __doc__, METHODS, conditions(), setting='fashion_mnist', logged=logged, over='SimCLR')
