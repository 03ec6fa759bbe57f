"""Circle loss (Sun et al., 2020): every similarity is paced by its distance from its optimum.

python -m contrastive_jax.train --config=configs/metric/circle.py --workdir=runs/circle
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs.

  For retrieval the paper has gamma=80; with batches of few classes that is too steep to begin with.
  """
  return common.config(variant, num_views=1, method=dict(name='pair', loss='circle', gamma=32.0))
