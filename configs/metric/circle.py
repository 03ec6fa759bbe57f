"""Circle loss (Sun et al., 2020): every similarity is paced by its distance from its optimum.

`:imagenet`: gamma 80 and margin 0.4, as the paper has them for retrieval; the rest is SimCLR's.

python -m contrastive_jax.train --config=configs/metric/circle.py --workdir=runs/circle
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs.

  With batches of few classes the paper's gamma is too steep to begin with.
  """
  paper = dict(method=dict(gamma=80.0))
  return common.config(variant, num_views=1, method=dict(name='pair', loss='circle', gamma=32.0), paper=paper)
