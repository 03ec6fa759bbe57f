"""SimSiam (Chen and He, 2021): predict the other view's own projection, whose gradient is stopped; no teacher.

`:imagenet`: facebookresearch/simsiam, main_simsiam.py, with a predictor whose learning rate falls as the others' (the
paper's table 1 has both). Biases and norms are decayed too.

python -m contrastive_jax.train --config=configs/ssl/simsiam.py --workdir=runs/simsiam
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='siamese', loss='normalized_mse', momentum=None, scale=0.5)
  paper = dict(
    data=dict(batch_size=512, views=dict(name='moco_v2', image_size=224)),
    head=dict(hidden=2048, features=2048, layers=3),
    predictor=dict(hidden=512),
    schedule=dict(learning_rate=0.05, warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=1e-4, no_decay=''),
  )
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256), paper=paper)
