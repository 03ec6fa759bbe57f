"""AMCL (Wang et al., 2024): three heads, and a temperature predicted for every pair and head, on the host of SimCLR.

The constants are the published ones. With them most temperatures of positives fall to the least, 1e-5, within a hundred
steps, and the loss to minus a hundred thousand (`losses.adaptive_nce` says why); gradients are clipped to a norm of 1,
as in the official code, "a numerical safeguard". `--config.method.tau_min=0.1` keeps the loss and its gradients small,
`--config.method.temperature=0.2` is the control of three heads at a constant temperature.

`:imagenet`: LeiWangR/cl, amcl/train.py, SimCLR on CIFAR-10: its ResNet-18, head, optimiser and epochs. Biases and norms
are decayed too.

python -m contrastive_jax.train --config=configs/ssl/amcl.py --workdir=runs/amcl
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='amcl', heads=3, topk=100, beta=1e-4)
  paper = dict(
    data=dict(batch_size=512),
    encoder=dict(depth=18),
    head=dict(hidden=512, features=128, norm='none', norm_last=False),
    schedule=dict(learning_rate=0.06, scaling='none', warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=5e-4, no_decay=''),
    train=dict(epochs=1000),
  )
  found = common.config(variant, method=method, predictor=dict(hidden=128, norm='none'), paper=paper)
  found.optimiser.clip_norm = 1.0
  return found
